#pragma once

#include <type_traits>

#include "kernels/cuda/score_tiles.cuh"
#include "kernels/cuda/wgmma.cuh"

/// Products of a warpgroup's 64 rows with up to 128 columns, and sums along rows, for the Hopper kernels for frame
/// scores. Accumulators lie as wgmma.cuh says: a thread has two rows, and two of every eight columns.
namespace purekv::cuda::frames {

/// What all lanes of a warp hold, in a register of the warp. Branches and operands of products need it there, and the
/// compiler, which does not know that they agree, would move it over for each of them.
__device__ __forceinline__ unsigned uniform(unsigned x) { return __reduce_or_sync(kFullWarp, x); }
__device__ __forceinline__ int uniform(int x) { return static_cast<int>(uniform(static_cast<unsigned>(x))); }

/// Calls body(constant) with `count` columns, rounded up to the sizes of products.
template <class Body>
__device__ __forceinline__ void with_columns(int count, const Body& body) {
  if (count > 96)
    body(std::integral_constant<int, 128>());
  else if (count > 64)
    body(std::integral_constant<int, 96>());
  else if (count > 32)
    body(std::integral_constant<int, 64>());
  else
    body(std::integral_constant<int, 32>());
}

/// s = A B^T over D dims, which lie in chunks of 64, so many bytes from chunk to chunk of either operand.
template <int D, int kColumns>
__device__ __forceinline__ void multiply(float (&s)[kColumns / 2], std::uint32_t a_rows, int a_chunk,
                                         std::uint32_t b_rows, int b_chunk) {
  const std::uint64_t a = hopper::swizzled_operand(uniform(a_rows), 16);
  const std::uint64_t b = hopper::swizzled_operand(uniform(b_rows), 16);
  hopper::wgmma_fence();
#pragma unroll
  for (int n = 0; n < D / 16; ++n)  // 16 dims are 32 bytes
    hopper::multiply_shared<kColumns>(s, a + (n / 4 * a_chunk >> 4) + n % 4 * 2, b + (n / 4 * b_chunk >> 4) + n % 4 * 2,
                                      n > 0);
  hopper::wgmma_commit();
  hopper::wgmma_wait<0>();
  hopper::pin(s);
}

/// Sums of 2^(x - top) of a thread's two rows, base-2 logits x, over the columns that it has seen.
struct PairSums {
  float top[2] = {kNoLogit, kNoLogit};
  float sum[2] = {0, 0};

  /// `scale` turns products into base-2 logits. `top` follows the largest logit only where it lags by more than 2^16,
  /// so that most steps rescale nothing.
  template <int kColumns>
  __device__ __forceinline__ void add(const float (&s)[kColumns / 2], float scale) {
    constexpr float kLag = 16;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most[2] = {s[2 * r], s[2 * r + 1]};
#pragma unroll
      for (int j = 1; j < kColumns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) most[e] = fmaxf(most[e], s[4 * j + 2 * r + e]);
      const float now = fmaxf(most[0], most[1]) * scale;
      if (now > top[r] + kLag) {
        sum[r] *= exp2_fast(top[r] - now);
        top[r] = now;
      }
      float parts[2] = {0, 0};
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) parts[e] += exp2_fast(fmaf(s[4 * j + 2 * r + e], scale, -top[r]));
      sum[r] += parts[0] + parts[1];
    }
  }

  /// The four lanes of a row meet.
  __device__ __forceinline__ void merge_quad() {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other_top = __shfl_xor_sync(kFullWarp, top[r], step);
        const float other_sum = __shfl_xor_sync(kFullWarp, sum[r], step);
        merge_sums(top[r], sum[r], other_top, other_sum);
      }
  }

  /// The row's log-sum-exp, negative.
  __device__ __forceinline__ float less(int r) const { return -top[r] - __log2f(sum[r]); }
};

}  // namespace purekv::cuda::frames
