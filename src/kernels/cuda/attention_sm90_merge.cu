#include <cmath>

#include "kernels/cuda/attention_sm90_merge.h"
#include "kernels/cuda/launch.h"

namespace purekv::cuda::sm90 {
namespace {

constexpr int kRowsOfWarpgroup = 64;
constexpr int kWarps = 4;

/// A warp a row of a split tile, always in the order of the slots. Reads 4 * dims + 8 bytes a slot, writes 2 *
/// head_dim; two passes over the sums, one over the rest.
__global__ void __launch_bounds__(32 * kWarps) merge_kernel(const MergeParams p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const SplitRows split = p.splits[blockIdx.y / static_cast<unsigned>(p.kv_heads)];
  const int kv_head = static_cast<int>(blockIdx.y) % p.kv_heads;
  const int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int token = index / p.group;  // of the tile
  const int row = split.first + token;
  if (row >= split.end) return;
  const int packed = token / p.tokens * kRowsOfWarpgroup + token % p.tokens * p.group + index % p.group;
  const std::int64_t slot_rows = std::int64_t{p.kv_heads} * 2 * kRowsOfWarpgroup;
  const std::int64_t first = split.slot_begin * slot_rows + kv_head * 2 * kRowsOfWarpgroup + packed;
  // Parts have references of their own, within 2^60 of what they saw: the largest log-sum-exp is the common one.
  float top = -INFINITY;
  for (int n = lane; n < split.slots; n += 32) {
    const float2 part = p.sums[first + n * slot_rows];
    if (part.y != 0) top = fmaxf(top, part.x + __logf(part.y));
  }
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0U, top, step));
  float l = 0;
  float o[4] = {};
  for (int n = 0; n < split.slots; ++n) {
    const float2 part = p.sums[first + n * slot_rows];
    if (part.y == 0) continue;
    const float weight = __expf(part.x - top);
    l += part.y * weight;
    const float* from = p.partial + (first + n * slot_rows) * p.dims;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (lane + 32 * i < p.head_dim) o[i] += from[lane + 32 * i] * weight;
  }
  const float inverse = l == 0 ? 0.0F : 1.0F / l;
  const int head = kv_head * p.group + index % p.group;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (lane + 32 * i < p.head_dim)
      p.out[row * p.out_stride + head * p.head_dim + lane + 32 * i] = __float2bfloat16(o[i] * inverse);
  if (lane == 0 && p.lse != nullptr) p.lse[head * p.lse_stride + row] = l == 0 ? -INFINITY : top + logf(l);
}

}  // namespace

void merge_partials(const Context& context, const MergeParams& params) {
  const auto rows = static_cast<unsigned>(ceil_div(2 * params.tokens * params.group, kWarps));
  const dim3 grid(rows, static_cast<unsigned>(params.split_count * params.kv_heads));
  merge_kernel<<<grid, 32 * kWarps, 0, stream_of(context)>>>(params);
  check_launch("attention_sm90_merge");
}

}  // namespace purekv::cuda::sm90
