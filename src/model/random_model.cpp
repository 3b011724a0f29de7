#include <algorithm>
#include <cstring>
#include <new>
#include <thread>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/weights.h"

namespace purekv {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr std::int64_t kBlock = 1 << 20;

/// Hands out matrices one after the other; with a null base it only counts.
class Arena {
 public:
  Arena(std::byte* base, DType dtype) : base_(base), dtype_(dtype) {}

  ConstMatrixView matrix(std::int64_t rows, std::int64_t cols) {
    const std::int64_t at = used_;
    const std::int64_t bytes = rows * cols * static_cast<std::int64_t>(size_of(dtype_));
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return {base_ == nullptr ? nullptr : base_ + at, dtype_, rows, cols, cols};
  }
  LinearWeight linear(std::int64_t out, std::int64_t in) { return {matrix(out, in), {}}; }
  LinearWeight biased(std::int64_t out, std::int64_t in) {
    return {matrix(out, in), std::vector<float>(static_cast<std::size_t>(out), 0.01F)};
  }
  [[nodiscard]] std::int64_t used() const { return used_; }

 private:
  std::byte* base_;
  DType dtype_;
  std::int64_t used_ = 0;
};

std::vector<float> ones(std::int64_t size) { return std::vector<float>(static_cast<std::size_t>(size), 1.0F); }

LanguageWeights lay_out_language(Arena& arena, const TextConfig& config) {
  const std::int64_t hidden = config.hidden;
  const std::int64_t q = config.heads.heads * config.heads.head_dim;
  const std::int64_t kv = config.heads.kv_heads * config.heads.head_dim;
  LanguageWeights w;
  w.embed = arena.matrix(config.vocab, hidden);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    DecoderLayerWeights& layer = w.layers.emplace_back();
    layer.input_norm = ones(hidden);
    layer.post_norm = ones(hidden);
    layer.q = arena.biased(q, hidden);
    layer.k = arena.biased(kv, hidden);
    layer.v = arena.biased(kv, hidden);
    layer.o = arena.linear(hidden, q);
    layer.gate = arena.linear(config.ffn, hidden);
    layer.up = arena.linear(config.ffn, hidden);
    layer.down = arena.linear(hidden, config.ffn);
  }
  w.norm = ones(hidden);
  w.head = config.tied ? w.embed : arena.matrix(config.vocab, hidden);
  return w;
}

VisionWeights lay_out_vision(Arena& arena, const VisionConfig& config) {
  VisionWeights w;
  w.patch_embed = arena.matrix(config.hidden, config.patch_values());
  for (std::int64_t i = 0; i < config.depth; ++i) {
    VisionBlockWeights& block = w.blocks.emplace_back();
    block.norm1 = ones(config.hidden);
    block.norm2 = ones(config.hidden);
    block.qkv = arena.biased(3 * config.hidden, config.hidden);
    block.proj = arena.biased(config.hidden, config.hidden);
    block.gate = arena.biased(config.ffn, config.hidden);
    block.up = arena.biased(config.ffn, config.hidden);
    block.down = arena.biased(config.hidden, config.ffn);
  }
  const std::int64_t merged = config.merge * config.merge * config.hidden;
  w.merger_norm = ones(config.hidden);
  w.merger_in = arena.biased(merged, merged);
  w.merger_out = arena.biased(config.out_hidden, merged);
  return w;
}

/// Random sign and mantissa under one exponent: every value lies in +-[1/64, 1/32), a deviation of
/// 0.024, with no conversion, so that filling runs at the speed of memory.
struct BitPattern {
  std::uint64_t random, fixed;
};

BitPattern bit_pattern(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {0x807FFFFF807FFFFFU, 0x3C8000003C800000U};
    case DType::kBF16:
      return {0x807F807F807F807FU, 0x3C803C803C803C80U};
    case DType::kF16:
      return {0x83FF83FF83FF83FFU, 0x2400240024002400U};
  }
  fail(ErrorKind::kInternal, "internal: unknown dtype {}", static_cast<int>(dtype));
}

/// `bytes` is a multiple of 8. A block's numbers depend on its place only, not on the threads.
void fill_block(std::byte* out, std::int64_t bytes, std::int64_t block, BitPattern pattern) {
  std::uint64_t state = (static_cast<std::uint64_t>(block) + 1) * 0x9E3779B97F4A7C15U;
  for (std::int64_t i = 0; i < bytes; i += 8) {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    const std::uint64_t word = (state & pattern.random) | pattern.fixed;
    std::memcpy(out + i, &word, sizeof word);
  }
}

std::byte* aligned(std::byte* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  return p + (kAlignment - static_cast<std::int64_t>(address % kAlignment)) % kAlignment;
}

}  // namespace

RandomModel random_model(const ModelConfig& config, DType dtype, bool language, bool vision) {
  const auto lay_out = [&](Arena arena, RandomModel& model) {
    if (language) model.language = lay_out_language(arena, config.text);
    if (vision) model.vision = lay_out_vision(arena, config.vision);
    return arena.used();
  };
  RandomModel model;
  model.bytes = lay_out(Arena(nullptr, dtype), model);
  try {
    // Uninitialised: a page is first touched by the thread that fills it.
    model.memory = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(model.bytes + kAlignment));
  } catch (const std::bad_alloc&) {
    fail(ErrorKind::kResource, "no memory for {} bytes of random weights: use a smaller shape", model.bytes);
  }
  std::byte* const base = aligned(model.memory.get());
  lay_out(Arena(base, dtype), model);
  const BitPattern pattern = bit_pattern(dtype);
  const int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  parallel_for(threads, (model.bytes + kBlock - 1) / kBlock, [&](std::int64_t block) {
    const std::int64_t begin = block * kBlock;
    fill_block(base + begin, std::min(kBlock, model.bytes - begin), block, pattern);
  });
  return model;
}

}  // namespace purekv
