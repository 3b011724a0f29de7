#pragma once

#include <cstdint>

#include "base/fail.h"
#include "base/matrix.h"
#include "base/shape.h"
#include "flow/kv_view.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

/// What the score kernels share: a warp holds 32 rows (queries or keys) in registers as matrix fragments while tiles of
/// 64 other rows stream through shared memory past the block's 8 warps.
///
/// A product sums over the head's dims in any order, so dims are permuted: lane t of a row's four holds dims
/// 32 p + 8 t .. + 7, 16 contiguous bytes, as its elements of k-steps 2p and 2p + 1. Global and shared memory are read
/// in 16-byte words without ldmatrix, and one register image serves as either operand: rows g and g + 8 make an A
/// fragment, one of them a B fragment.
namespace purekv::cuda {

inline constexpr int kScoreThreads = 256;
inline constexpr int kHeldRows = kScoreThreads;  ///< rows that a block holds, 32 a warp
inline constexpr int kStreamRows = 64;
inline constexpr int kStreamStages = 3;
inline constexpr int kMostKvHeads = 32;
inline constexpr int kDimsAPart = 32;
inline constexpr float kLog2E = 1.44269504F;
inline constexpr float kNoLogit = -1e30F;  ///< below every logit, and finite: differences of two stay numbers
/// Of a frame's `self`, in base 2, as on the CPU: a row that hides keys may pass 1, but stays finite.
inline constexpr float kMostSelf = 80 * kLog2E;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFU;

using Bf16Bits = std::uint16_t;

/// Rows of one kind in device memory.
struct ScoreOperand {
  long long stride = 0;  ///< elements from row to row
  int dims = 0;          ///< of a head
  bool aligned = false;  ///< rows can be read in words of 16 bytes
};

struct HeadPointers {
  const Bf16Bits* head[kMostKvHeads];
};

/// Keys (or values) of every KV head as kernels take them.
inline ScoreOperand operand_of(const KvView& kv, bool values, int dims, HeadPointers& pointers) {
  PUREKV_ASSERT(kv.dtype == DType::kBF16 && kv.heads.size() <= kMostKvHeads && dims <= 4 * kDimsAPart);
  ScoreOperand operand{kv.heads.front().stride, dims, dims % 8 == 0 && kv.heads.front().stride % 8 == 0};
  for (std::size_t h = 0; h < kv.heads.size(); ++h) {
    PUREKV_ASSERT(kv.heads[h].stride == operand.stride);
    pointers.head[h] = static_cast<const Bf16Bits*>(values ? kv.heads[h].v : kv.heads[h].k);
    operand.aligned = operand.aligned && reinterpret_cast<std::uintptr_t>(pointers.head[h]) % 16 == 0;
  }
  return operand;
}

/// Queries [rows, heads * head_dim] bf16; a row of it is one head's.
inline ScoreOperand query_operand(const ConstMatrixView& q, const HeadShape& shape) {
  PUREKV_ASSERT(q.dtype == DType::kBF16 && q.cols == shape.heads * shape.head_dim);
  return {q.stride, static_cast<int>(shape.head_dim),
          shape.head_dim % 8 == 0 && q.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(q.data) % 16 == 0};
}

/// Dims [dim, dim + 8) of a row, zeros past its end and where there is no row. Callers branch on `aligned` outside of
/// their loops: a branch around each load would make the loads wait for each other.
template <bool kAligned>
__device__ uint4 load_dims(const Bf16Bits* row, int dim, int dims) {
  uint4 x{0, 0, 0, 0};
  if constexpr (kAligned) {
    if (row != nullptr && dim < dims) x = __ldg(reinterpret_cast<const uint4*>(row + dim));
    return x;
  }
  if (row == nullptr) return x;
  unsigned* words = &x.x;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (dim + i < dims) words[i / 2] |= static_cast<unsigned>(row[dim + i]) << (16 * (i % 2));
  return x;
}

/// 64 rows from `first` on, as far as there are any, towards the second-level cache: two lines of 128 bytes at head_dim
/// 128, each by one of 128 threads.
__device__ inline void prefetch_rows(const Bf16Bits* rows, const ScoreOperand& operand, long long first,
                                     long long end) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const long long row = first + thread / 2;
  const int dim = thread % 2 * 64;
  if (row < end && dim < operand.dims)
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(rows + row * operand.stride + dim));
}

/// A warp's 32 rows: rows 16 m + 8 half + lane / 4, dims 32 p + 8 (lane % 4) .. + 7. 16 kParts registers.
template <int kParts>
struct HeldRows {
  uint4 part[2][2][kParts];
};

template <bool kAligned, int kParts, class RowAt>
__device__ void hold_rows_as(HeldRows<kParts>& held, int dims, const RowAt& row_at) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Bf16Bits* row = row_at(8 * i + lane / 4);
#pragma unroll
    for (int p = 0; p < kParts; ++p)
      held.part[i / 2][i % 2][p] = load_dims<kAligned>(row, kDimsAPart * p + 8 * (lane % 4), dims);
  }
}

/// `row_at`(row of the warp) is the row's first dim, null for none.
template <int kParts, class RowAt>
__device__ void hold_rows(HeldRows<kParts>& held, const ScoreOperand& operand, const RowAt& row_at) {
  if (operand.aligned)
    hold_rows_as<true>(held, operand.dims, row_at);
  else
    hold_rows_as<false>(held, operand.dims, row_at);
}

template <int kParts>
inline constexpr int kStreamBytes = kStreamRows * kParts * kDimsAPart * 2;

template <int kParts>
inline constexpr int kSixteenRows = 16 * kParts * kDimsAPart * 2;  ///< bytes

/// Where dims 8 word .. + 7 of a tile's row lie. The swap of two halves in odd rows lets eight lanes, two rows of four
/// words, read without bank conflicts.
template <int kParts>
__device__ int tile_offset(int row, int word) {
  return row * kParts * kDimsAPart * 2 + 16 * (word ^ ((row % 2) * 4));
}

/// Queues one tile; the caller commits. `row_at`(row of the tile) is null for none; `any` is an address that can be
/// read.
template <int kParts, class RowAt>
__device__ void stream_tile(char* tile, const ScoreOperand& operand, const void* any, const RowAt& row_at) {
  constexpr int kWords = 4 * kParts;
  constexpr int kEach = kStreamRows * kWords / kScoreThreads;
  const int first_row = static_cast<int>(threadIdx.x) / kWords;
  const int word = static_cast<int>(threadIdx.x) % kWords;
  const int dim = 8 * word;
  if (operand.aligned) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = first_row + i * (kScoreThreads / kWords);
      const Bf16Bits* from = row_at(row);
      const bool there = from != nullptr && dim < operand.dims;
      cp_async_16(shared_address(tile + tile_offset<kParts>(row, word)), there ? from + dim : any, there ? 16 : 0);
    }
    return;
  }
  for (int i = 0; i < kEach; ++i) {
    const int row = first_row + i * (kScoreThreads / kWords);
    *reinterpret_cast<uint4*>(tile + tile_offset<kParts>(row, word)) = load_dims<false>(row_at(row), dim, operand.dims);
  }
}

/// Where this lane reads a tile's row lane / 4: address of part p, less 64 p, for even and for odd p.
struct LaneTile {
  std::uint32_t even, odd;
  /// The same `bytes` further on.
  __device__ LaneTile at(int bytes) const {
    return {even + static_cast<std::uint32_t>(bytes), odd + static_cast<std::uint32_t>(bytes)};
  }
};

template <int kParts>
__device__ LaneTile lane_tile(const char* tile) {
  const int row = threadIdx.x % 32 / 4;
  const std::uint32_t base =
      shared_address(tile) + static_cast<std::uint32_t>(tile_offset<kParts>(row, 0)) + 16 * (threadIdx.x % 4);
  return row % 2 == 0 ? LaneTile{base, base} : LaneTile{base, base - 128};
}

/// Volatile as the products are, so that it stays where it is written: one part ahead of them.
__device__ inline uint4 read_shared(std::uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address));
  return x;
}

/// The products s[2 m + n] of held rows 16 m .. + 15 (accumulator rows) with rows 8 n .. + 7 (columns) of 16 that begin
/// at `tile`: 8 kParts mma on four independent sums, so that one's latency hides behind the others.
///
/// Held rows are the A operand only: as B they would lie in registers that are no neighbours, at three moves an mma.
template <int kParts>
__device__ void multiply_tile(float (&s)[4][4], const HeldRows<kParts>& held, LaneTile tile) {
  constexpr int kEightRows = kSixteenRows<kParts> / 2;
  uint4 b[2][2] = {{read_shared(tile.even), read_shared(tile.even + kEightRows)}, {}};
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    if (p + 1 < kParts) {
      const std::uint32_t next = ((p + 1) % 2 == 0 ? tile.even : tile.odd) + 64 * (p + 1);
      b[(p + 1) % 2][0] = read_shared(next);
      b[(p + 1) % 2][1] = read_shared(next + kEightRows);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4& upper = held.part[i / 2][0][p];
      const uint4& lower = held.part[i / 2][1][p];
      const std::uint32_t a[4] = {upper.x, lower.x, upper.y, lower.y};
      mma_bf16(s[i], a, b[p % 2][i % 2].x, b[p % 2][i % 2].y);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4& upper = held.part[i / 2][0][p];
      const uint4& lower = held.part[i / 2][1][p];
      const std::uint32_t a[4] = {upper.z, lower.z, upper.w, lower.w};
      mma_bf16(s[i], a, b[p % 2][i % 2].z, b[p % 2][i % 2].w);
    }
  }
}

/// hides(i, k): whether row 8 i + lane / 4 of the warp does not see the k-th of the 16 keys. Such logits become -inf.
template <class Hides>
__device__ void hide_keys(float (&s)[4][4], const Hides& hides) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const int m = i / 8, n = i / 4 % 2, half = i / 2 % 2, e = i % 2;
    if (hides(2 * m + half, 8 * n + 2 * static_cast<int>(threadIdx.x % 4) + e)) s[2 * m + n][2 * half + e] = -INFINITY;
  }
}

/// Sums of 2^(x - top) of a warp's 32 held query rows, base-2 logits x, over the keys that this lane has seen; [i] is
/// row 8 i + lane / 4.
struct RowSums {
  float top[4], sum[4];
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      top[i] = kNoLogit;
      sum[i] = 0;
    }
  }
};

/// Adds 16 keys of a tile, which begin at `tile`. `scale` turns products into base-2 logits, above 0. Where `masked`,
/// `hides` is asked. `top` follows the largest logit only where it lags by more than 2^16, so that most steps rescale
/// nothing.
template <int kParts, class Hides>
__device__ void add_keys(RowSums& rows, const HeldRows<kParts>& held, LaneTile tile, float scale, bool masked,
                         const Hides& hides) {
  constexpr float kLag = 16;
  float s[4][4] = {};  // [2 m + n][rows g, g + 8 x keys 2t, 2t + 1]
  multiply_tile<kParts>(s, held, tile);
  if (masked) hide_keys(s, hides);
  bool raise = false;
  float top[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = i / 2 * 2, e = i % 2 * 2;
    top[i] = fmaxf(fmaxf(s[n][e], s[n][e + 1]), fmaxf(s[n + 1][e], s[n + 1][e + 1])) * scale;
    raise = raise || top[i] > rows.top[i] + kLag;
  }
  if (raise) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float higher = fmaxf(rows.top[i], top[i]);
      rows.sum[i] *= exp2_fast(rows.top[i] - higher);
      rows.top[i] = higher;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = i / 2 * 2, e = i % 2 * 2;
    const float low = exp2_fast(fmaf(s[n][e], scale, -rows.top[i])) + exp2_fast(fmaf(s[n][e + 1], scale, -rows.top[i]));
    const float high =
        exp2_fast(fmaf(s[n + 1][e], scale, -rows.top[i])) + exp2_fast(fmaf(s[n + 1][e + 1], scale, -rows.top[i]));
    rows.sum[i] += low + high;
  }
}

/// The larger of `kept` and what the lane `step` away holds of the same: it hands this lane's `sent` over.
__device__ __forceinline__ float meet_lane(float kept, float sent, int step) {
  return fmaxf(kept, __shfl_xor_sync(kFullWarp, sent, step));
}

/// (top, sum) takes in another pair.
__device__ inline void merge_sums(float& top, float& sum, float other_top, float other_sum) {
  const float higher = fmaxf(top, other_top);
  sum = sum * exp2_fast(top - higher) + other_sum * exp2_fast(other_top - higher);
  top = higher;
}

/// The same over a row's four lanes.
__device__ inline void merge_lanes(RowSums& rows) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const float other_top = __shfl_xor_sync(kFullWarp, rows.top[i], step);
      const float other_sum = __shfl_xor_sync(kFullWarp, rows.sum[i], step);
      merge_sums(rows.top[i], rows.sum[i], other_top, other_sum);
    }
}

}  // namespace purekv::cuda
