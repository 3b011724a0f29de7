#include "device/transfer.h"
#include "kernels/random_bits.h"
#include "model/weights.h"

namespace purekv {
namespace {

/// Hands out random matrices; the drawing of a matrix depends on its place in the model only.
class Source {
 public:
  Source(const Context& context, DType dtype, std::vector<Matrix>& owned)
      : context_(context), dtype_(dtype), owned_(owned) {}

  ConstMatrixView matrix(std::int64_t rows, std::int64_t cols) { return matrix(table_dtype(), rows, cols); }
  LinearWeight linear(std::int64_t out, std::int64_t in) {
    LinearWeight w;
    w.weight = matrix(dtype_, out, in);
    // fp8 values lie in [1, 2): the scale brings them to those of the other types.
    if (dtype_ == DType::kFp8) w.scales = floats(out, kMagnitude);
    return w;
  }
  LinearWeight biased(std::int64_t out, std::int64_t in) {
    LinearWeight w = linear(out, in);
    w.bias = floats(out, kBias);
    if (on_device())
      w.bias16 = to_device(context_, std::vector<BFloat16>(static_cast<std::size_t>(out), to_bf16(kBias)));
    return w;
  }
  [[nodiscard]] Buffer floats(std::int64_t size, float value) const {
    return to_device(context_, std::vector<float>(static_cast<std::size_t>(size), value));
  }
  [[nodiscard]] bool on_device() const { return context_.backend == Backend::kCuda; }

 private:
  static constexpr float kMagnitude = 0x1p-6F;  ///< a deviation of 0.024
  static constexpr float kBias = 0.01F;

  [[nodiscard]] DType table_dtype() const { return dtype_ == DType::kFp8 ? DType::kBF16 : dtype_; }
  ConstMatrixView matrix(DType dtype, std::int64_t rows, std::int64_t cols) {
    const MatrixView out = owned_.emplace_back(context_, dtype, rows, cols).view();
    random_bits(context_, out, dtype == DType::kFp8 ? 1.0F : kMagnitude, owned_.size());
    return out;
  }

  Context context_;
  DType dtype_;
  std::vector<Matrix>& owned_;
};

}  // namespace

LanguageWeights random_language(const Context& context, const TextConfig& config, DType dtype) {
  const std::int64_t hidden = config.hidden;
  const std::int64_t q = config.heads.heads * config.heads.head_dim;
  const std::int64_t kv = config.heads.kv_heads * config.heads.head_dim;
  LanguageWeights w;
  Source source(context, dtype, w.owned);
  w.embed = source.matrix(config.vocab, hidden);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    DecoderLayerWeights& layer = w.layers.emplace_back();
    layer.input_norm = source.floats(hidden, 1.0F);
    layer.post_norm = source.floats(hidden, 1.0F);
    layer.qkv = source.biased(q + 2 * kv, hidden);
    layer.o = source.linear(hidden, q);
    layer.gate = source.linear(config.ffn, hidden);
    layer.up = source.linear(config.ffn, hidden);
    layer.down = source.linear(hidden, config.ffn);
  }
  w.norm = source.floats(hidden, 1.0F);
  w.head = config.tied ? w.embed : source.matrix(config.vocab, hidden);
  w.bytes = bytes_of(w.owned);
  return w;
}

VisionWeights random_vision(const Context& context, const VisionConfig& config, DType dtype) {
  VisionWeights w;
  Source source(context, dtype == DType::kFp8 ? DType::kBF16 : dtype, w.owned);
  const std::int64_t ffn = source.on_device() ? padded_ffn(config.ffn) : config.ffn;
  w.patch_embed = source.matrix(config.hidden, config.patch_values());
  for (std::int64_t i = 0; i < config.depth; ++i) {
    VisionBlockWeights& block = w.blocks.emplace_back();
    block.norm1 = source.floats(config.hidden, 1.0F);
    block.norm2 = source.floats(config.hidden, 1.0F);
    block.qkv = source.biased(3 * config.hidden, config.hidden);
    block.proj = source.biased(config.hidden, config.hidden);
    block.gate = source.biased(ffn, config.hidden);
    block.up = source.biased(ffn, config.hidden);
    block.down = source.biased(config.hidden, ffn);
  }
  const std::int64_t merged = config.merge * config.merge * config.hidden;
  w.merger_norm = source.floats(config.hidden, 1.0F);
  w.merger_in = source.biased(merged, merged);
  w.merger_out = source.biased(config.out_hidden, merged);
  w.bytes = bytes_of(w.owned);
  return w;
}

}  // namespace purekv
