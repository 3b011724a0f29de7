#include "kernels/rope.h"

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

using bf16 = __nv_bfloat16;

/// N pairs of one head, elements j and j + half. Reads qkv once and writes it once, 4 bytes an element; the tables'
/// rows come from the first-level cache for all heads but one. A pair is read before it is written, by one thread:
/// q may be qkv's own columns.
template <int N>
struct RopeSplit {
  RopeSplitParams p;
  int half, half_units;
  int heads, kv_heads;

  __device__ void operator()(std::int64_t row, int unit) const {
    int head = unit / half_units;
    const int j = unit % half_units * N;
    const bf16* from = row_of<bf16>(p.qkv, row) + static_cast<std::int64_t>(head) * 2 * half + j;
    float low[N];
    float high[N];
    load_unit(from, low);
    load_unit(from + half, high);
    if (head < heads + kv_heads) turn(row * half + j, low, high);
    bf16* to = row_of<bf16>(p.q, row) + static_cast<std::int64_t>(head) * 2 * half;
    if (head >= heads) {
      head -= heads;
      const bool value = head >= kv_heads;
      to = static_cast<bf16*>(value ? p.values : p.keys) + (value ? head - kv_heads : head) * p.head_stride +
           row * p.row_stride;
    }
    store_unit(to + j, low);
    store_unit(to + half + j, high);
  }

  __device__ void turn(std::int64_t at, float (&low)[N], float (&high)[N]) const {
    float cos[N];
    float sin[N];
    load_unit(p.cos + at, cos);
    load_unit(p.sin + at, sin);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x = low[i];
      low[i] = x * cos[i] - high[i] * sin[i];
      high[i] = high[i] * cos[i] + x * sin[i];
    }
  }
};

}  // namespace

void rope_split(const Context& context, const RopeSplitParams& params) {
  const RopeSplitParams& p = params;
  const std::int64_t all_heads = p.shape.heads + 2 * p.shape.kv_heads;
  const std::int64_t half = p.shape.head_dim / 2;
  PUREKV_ASSERT(p.qkv.dtype == DType::kBF16 && p.q.dtype == DType::kBF16 && p.kv_dtype == DType::kBF16);
  PUREKV_ASSERT(p.shape.head_dim % 2 == 0 && p.qkv.cols == all_heads * p.shape.head_dim);
  PUREKV_ASSERT(p.q.rows == p.qkv.rows && p.q.cols == p.shape.heads * p.shape.head_dim);
  const bool units = half % kUnit == 0 && has_units(p.qkv) && has_units(p.q) && is_aligned_16(p.keys) &&
                     is_aligned_16(p.values) && p.head_stride % kUnit == 0 && p.row_stride % kUnit == 0 &&
                     is_aligned_16(p.cos) && is_aligned_16(p.sin);
  with_unit(units, [&]<int N>(std::integral_constant<int, N>) {
    const RopeSplit<N> op{p, static_cast<int>(half), static_cast<int>(half / N), static_cast<int>(p.shape.heads),
                          static_cast<int>(p.shape.kv_heads)};
    launch_units(context, op, p.qkv.rows, all_heads * (half / N), "rotary embedding");
  });
}

}  // namespace purekv::cuda
