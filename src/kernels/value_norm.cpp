#include "kernels/value_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/dtype.h"
#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/tile_memory.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

constexpr std::int64_t kRowsAtOnce = 256;

float element(const void* data, DType type, std::int64_t i) {
  switch (type) {
    case DType::kF32:
      return load_element<float>(data, i);
    case DType::kBF16:
      return to_float(load_element<BFloat16>(data, i));
    case DType::kF16:
      return to_float(load_element<Float16>(data, i));
    case DType::kFp8:
      break;
  }
  return 0;
}

/// The row of the same cell one frame earlier in a grid of the same size, -1 where there is none. A mask links
/// equal cells of unequal grids too (docs/method.md); novelty does not: another grid is another scale.
std::int64_t earlier_row(const FrameTable& table, std::int64_t row) {
  const std::int32_t earlier = table.previous_cell(static_cast<std::int32_t>(row));
  if (earlier < 0) return -1;
  const auto frame = static_cast<std::size_t>(table.places[static_cast<std::size_t>(row)].frame);
  const FrameSpan& now = table.frames[frame];
  const FrameSpan& before = table.frames[frame - 1];
  return now.grid_h == before.grid_h && now.grid_w == before.grid_w ? earlier : -1;
}

/// Value rows [first, first + count) of a KV head, padded with zeros; with `before`, less the row of the same
/// cell one frame earlier where there is one.
void copy_values(const ValueNormParams& p, std::int64_t head, std::int64_t first, std::int64_t count, bool before,
                 float* out) {
  const KvHeadView& kv = p.kv.heads[static_cast<std::size_t>(head)];
  const std::int64_t d = p.shape.head_dim;
  const std::int64_t padded = padded_dim(d);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = first + i;
    const std::int64_t earlier = before ? earlier_row(*p.table, row) : -1;
    for (std::int64_t t = 0; t < d; ++t) {
      const float v = element(kv.v, p.kv.dtype, row * kv.stride + t);
      out[i * padded + t] = earlier < 0 ? v : v - element(kv.v, p.kv.dtype, earlier * kv.stride + t);
    }
    std::fill(out + i * padded + d, out + (i + 1) * padded, 0.0F);
  }
}

/// out[i] = mean over the group's heads of sqrt(v^T G_h v); grams [heads][padded][padded].
void mean_norm(const ValueNormParams& p, const float* grams, std::int64_t head, std::int64_t count, const float* v,
               float* out) {
  const std::int64_t group = p.shape.group();
  const std::int64_t padded = padded_dim(p.shape.head_dim);
  std::vector<float> work(static_cast<std::size_t>(count * padded));
  std::vector<float> norm(static_cast<std::size_t>(count));
  std::fill_n(out, count, 0.0F);
  for (std::int64_t g = 0; g < group; ++g) {
    const float* gram = grams + (head * group + g) * padded * padded;
    attention_isa().quadratic(v, gram, count, padded, work.data(), norm.data());
    for (std::int64_t i = 0; i < count; ++i) out[i] += norm[static_cast<std::size_t>(i)];
  }
  for (std::int64_t i = 0; i < count; ++i) out[i] /= static_cast<float>(group);
}

/// [heads, d, d] -> [heads, padded, padded] with zeros, so that tiles need no edge.
std::vector<float> pad_grams(const HeadShape& shape, const float* gram) {
  const std::int64_t d = shape.head_dim;
  const std::int64_t padded = padded_dim(d);
  std::vector<float> out(static_cast<std::size_t>(shape.heads * padded * padded), 0.0F);
  for (std::int64_t h = 0; h < shape.heads; ++h)
    for (std::int64_t i = 0; i < d; ++i) std::copy_n(gram + (h * d + i) * d, d, out.data() + (h * padded + i) * padded);
  return out;
}

void norm_rows(const ValueNormParams& p, const float* grams, std::int64_t head, std::int64_t first,
               std::int64_t count) {
  const std::int64_t rows = p.kv.heads[static_cast<std::size_t>(head)].rows;
  const std::int64_t padded = padded_dim(p.shape.head_dim);
  float* v = tile_memory(count * padded);
  copy_values(p, head, first, count, false, v);
  if (p.l2 != nullptr)
    for (std::int64_t i = 0; i < count; ++i) {
      float square = 0;
      for (std::int64_t t = 0; t < padded; ++t) square += v[i * padded + t] * v[i * padded + t];
      p.l2[head * rows + first + i] = std::sqrt(square);
    }
  if (p.out != nullptr) mean_norm(p, grams, head, count, v, p.out + head * rows + first);
  if (p.nov == nullptr) return;
  copy_values(p, head, first, count, true, v);
  float* nov = p.nov + head * rows + first;
  mean_norm(p, grams, head, count, v, nov);
  for (std::int64_t i = 0; i < count; ++i)
    if (p.table->is_text(static_cast<std::int32_t>(first + i))) nov[i] = 0;
}

}  // namespace

void value_norm(const Context& context, const ValueNormParams& p) {
  PUREKV_ASSERT((p.out == nullptr && p.nov == nullptr) || p.gram != nullptr || p.packed != nullptr);
  PUREKV_ASSERT(p.nov == nullptr || p.table != nullptr);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::value_norm(context, p);
  const std::int64_t rows = p.kv.heads.front().rows;
  const std::int64_t pieces = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  const std::vector<float> grams = p.gram != nullptr ? pad_grams(p.shape, p.gram) : std::vector<float>();
  parallel_for(context.threads, p.shape.kv_heads * pieces, [&](std::int64_t n) {
    const std::int64_t first = n % pieces * kRowsAtOnce;
    norm_rows(p, grams.data(), n / pieces, first, std::min(kRowsAtOnce, rows - first));
  });
}

std::int64_t packed_gram_bytes(const Context& context, const HeadShape& shape) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::packed_gram_bytes(context, shape);
  static_cast<void>(shape);
  return 0;
}

void gram(const Context& context, const GramParams& p) {
  const std::int64_t d = p.shape.head_dim;
  const std::int64_t padded = padded_dim(d);
  PUREKV_ASSERT(p.w_o.cols == p.shape.heads * d);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::gram(context, p);
  parallel_for(context.threads, p.shape.heads, [&](std::int64_t h) {
    std::vector<float> a(static_cast<std::size_t>(kRowsAtOnce * padded), 0.0F);
    std::vector<float> transposed(a.size(), 0.0F);
    std::vector<float> sum(static_cast<std::size_t>(padded * padded), 0.0F);
    for (std::int64_t begin = 0; begin < p.w_o.rows; begin += kRowsAtOnce) {
      const std::int64_t count = std::min(kRowsAtOnce, p.w_o.rows - begin);
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t t = 0; t < d; ++t) {
          const float x = element(p.w_o.data, p.w_o.dtype, (begin + i) * p.w_o.stride + h * d + t);
          a[static_cast<std::size_t>(i * padded + t)] = x;
          transposed[static_cast<std::size_t>(t * count + i)] = x;
        }
      attention_isa().gram(a.data(), transposed.data(), count, padded, sum.data());
    }
    for (std::int64_t i = 0; i < d; ++i) std::copy_n(sum.data() + i * padded, d, p.gram + (h * d + i) * d);
  });
}

}  // namespace purekv
