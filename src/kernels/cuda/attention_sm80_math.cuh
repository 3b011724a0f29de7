#pragma once

#include <cstdint>

#include "kernels/cuda/attention_sm80_slots.cuh"
#include "kernels/cuda/mma.cuh"

/// What one warp computes of a tile of 64 keys: m16n8k16 products and the step of the online softmax between them. In
/// lane l of a fragment, g = l / 4 is the row and 2 (l % 4) the column (mma.cuh).
namespace purekv::cuda::sm80 {

/// Four warps of 32 rows: a fragment of K or V from shared memory feeds two products. With 16 rows a warp its 128 bytes
/// a clock, not the tensor cores, are the limit; kDim = 256 has no registers for more and takes eight warps of 16.
template <int kDim>
struct AttentionTraits {
  static constexpr int kRowBlocks = kDim > 128 ? 1 : 2;  ///< of 16 rows, a warp
  static constexpr int kWarps = kTileRows / (16 * kRowBlocks);
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = kDim > 128 ? 1 : 2;
  static constexpr int kPitch = kDim + 8;  ///< an odd number of 16-byte units: 8 rows of a matrix lie in 32 banks
  static constexpr int kSharedBytes = (kTileRows + 2 * kTileKeys) * kPitch * 2;
};

/// A warp's rows: float32 sums of a fragment each, and the softmax of rows g, g + 8 of each block of 16.
template <int kDim, int kRowBlocks>
struct RowSums {
  float out[kRowBlocks][kDim / 8][4];
  float top[kRowBlocks][2];  ///< largest scaled logit / ln 2, rounded once: equal ones must give a factor of 1
  float sum[kRowBlocks][2];  ///< of this lane's columns
};

__device__ inline float finite_top(float top) { return top == -INFINITY ? 0 : top; }

/// logits = q K^T of a warp's rows, not scaled.
template <int kDim, int kRowBlocks>
__device__ inline void multiply_keys(const bf16* q, const bf16* k, float (&logits)[kRowBlocks][kTileKeys / 8][4]) {
  constexpr int kPitch = AttentionTraits<kDim>::kPitch;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const std::uint32_t q_at = shared_address(q + lane % 16 * kPitch + lane / 16 * 8);
  const std::uint32_t k_at = shared_address(k + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8);
#pragma unroll
  for (auto& block : logits)
#pragma unroll
    for (auto& tile : block)
#pragma unroll
      for (float& x : tile) x = 0;
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    std::uint32_t a[kRowBlocks][4];
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) ldmatrix_x4(a[b], q_at + (b * 16 * kPitch + d) * 2);
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      std::uint32_t keys[4];
      ldmatrix_x4(keys, k_at + (n * 16 * kPitch + d) * 2);
#pragma unroll
      for (int b = 0; b < kRowBlocks; ++b) {
        mma_bf16(logits[b][2 * n], a[b], keys[0], keys[1]);
        mma_bf16(logits[b][2 * n + 1], a[b], keys[2], keys[3]);
      }
    }
  }
}

/// Logits of slots that a row does not see become -inf. `row` is that of the warp's first packed row.
template <int kRowBlocks>
__device__ inline void mask_logits(const LineMemory& line, const std::int32_t* row,
                                   float (&logits)[kRowBlocks][kTileKeys / 8][4]) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const SeenBy seen = line.seen[n * 8 + lane % 4 * 2 + i];
#pragma unroll
      for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int32_t r = row[b * 16 + half * 8 + lane / 4];
          if (r < seen.first || r > seen.last) logits[b][n][half * 2 + i] = -INFINITY;
        }
    }
}

/// Brings the sums to the largest logit so far. fmaxf passes over NaN, but its power is NaN again and so are the row's
/// sums. While a row has seen nothing its largest logit is -inf, and 0 stands for it: -inf - -inf would be NaN.
template <int kDim, int kRowBlocks>
__device__ inline void raise_tops(float scale_log2, const float (&logits)[kRowBlocks][kTileKeys / 8][4],
                                  RowSums<kDim, kRowBlocks>& rows) {
  float shrink[kRowBlocks][2];
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = logits[b][0][half * 2];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n)
        top = fmaxf(top, fmaxf(logits[b][n][half * 2], logits[b][n][half * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0U, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0U, top, 2));
      const float before = rows.top[b][half];
      rows.top[b][half] = fmaxf(before, top * scale_log2);
      shrink[b][half] = exp2_fast(before - finite_top(rows.top[b][half]));
    }
  bool same = true;
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b) same = same && shrink[b][0] == 1 && shrink[b][1] == 1;
  if (__all_sync(~0U, same)) return;  // most tiles of a long line: nothing of the sums changes
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.sum[b][half] *= shrink[b][half];
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        rows.out[b][n][half * 2] *= shrink[b][half];
        rows.out[b][n][half * 2 + 1] *= shrink[b][half];
      }
    }
}

/// out += P V with p = 2^(scaled logit - largest), which is added to the sums in float32 and rounded to bf16. Powers
/// are taken for sixteen keys at a time: few of P's registers are alive.
template <int kDim, int kRowBlocks>
__device__ inline void multiply_values(float scale_log2, const bf16* v,
                                       const float (&logits)[kRowBlocks][kTileKeys / 8][4],
                                       RowSums<kDim, kRowBlocks>& rows) {
  constexpr int kPitch = AttentionTraits<kDim>::kPitch;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const std::uint32_t v_at = shared_address(v + (lane / 8 % 2 * 8 + lane % 8) * kPitch + lane / 16 * 8);
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    std::uint32_t p[kRowBlocks][4];
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i % 2;
        const float* pair = &logits[b][2 * k + i / 2][half * 2];
        const float base = finite_top(rows.top[b][half]);
        const float x = exp2_fast(pair[0] * scale_log2 - base);
        const float y = exp2_fast(pair[1] * scale_log2 - base);
        rows.sum[b][half] += x + y;
        p[b][i] = pack_bf16(x, y);
      }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      std::uint32_t values[4];
      ldmatrix_x4_trans(values, v_at + (k * 16 * kPitch + n * 16) * 2);
#pragma unroll
      for (int b = 0; b < kRowBlocks; ++b) {
        mma_bf16(rows.out[b][2 * n], p[b], values[0], values[1]);
        mma_bf16(rows.out[b][2 * n + 1], p[b], values[2], values[3]);
      }
    }
  }
}

}  // namespace purekv::cuda::sm80
