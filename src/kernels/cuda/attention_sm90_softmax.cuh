#pragma once

#include <cmath>

#include "kernels/cuda/attention_sm90_shared.cuh"

/// The part of a consumer warpgroup between its two products: masks, exponentials and sums of the accumulators.
namespace purekv::cuda::sm90 {

constexpr float kNone = -INFINITY;
constexpr float kLn2 = 0.693147181F;

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// {low, high} halves.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Over the four threads that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

/// A thread's two rows: P = 2^(logit - m), logits in powers of two; this thread's share of the sum of P.
struct RowState {
  float m[2] = {0, 0};
  float l[2] = {0, 0};
  bool settled = false;  ///< every row of the warp has seen keys near m
};

/// Thread t of a warpgroup holds rows 16 * (t / 32) + t % 32 / 4 + {0, 8} of 64 packed rows (token-major, group minor)
/// and columns 8 * j + 2 * (t % 4) + {0, 1} of the score matrix.
template <int D>
class Softmax {
 public:
  __device__ explicit Softmax(const Params& params) : p_(params), warpgroup_(hopper::warpgroup() - 1) {
    const int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      token_[r] = (row + 8 * r) / p_.group;
      head_[r] = (row + 8 * r) % p_.group;
    }
  }

 protected:
  /// How many of this thread's columns (8 j + 2 q + {0, 1}) lie below column x.
  __device__ __forceinline__ static int columns_below(int x) {
    return (x >> 3) * 2 + min(max((x & 7) - static_cast<int>(threadIdx.x % 4) * 2, 0), 2);
  }
  /// Bits [begin, end).
  __device__ __forceinline__ static unsigned bits(int begin, int end) {
    unsigned mask;
    asm("bmsk.clamp.b32 %0, %1, %2;" : "=r"(mask) : "r"(begin), "r"(max(end - begin, 0)));
    return mask;
  }

  /// Logits that a row does not see become -inf. A thread's columns of a row are the bits of a word, which every mask
  /// of the step narrows; most steps have none.
  __device__ __forceinline__ void mask(float (&s)[64], const StepHeader* header, const TileHeader& tile) const {
    const int masks = header->masks;
    if (masks < 0) return;
    const unsigned live = bits(0, header->live);
    unsigned seen[2] = {live, live};
    for (int n = 0; n < masks; ++n) {
      const StepMask mask = header->mask[n];
      const int begin = mask.groups & 0xFF;
      const int end = mask.groups >> 8 & 0xFF;
      const int limit = mask.groups >> 16;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = tile.first + warpgroup_ * p_.tokens + token_[r];
        const int low = min(max(row + mask.low, 0), limit);
        const int high = min(max(row + mask.high + 1, 0), limit);
        seen[r] &= ~bits(2 * begin, 2 * end) | bits(columns_below(low), columns_below(high));
      }
    }
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if ((seen[i / 2 % 2] & 1U << (i / 4 * 2 + i % 2)) == 0) s[i] = kNone;
  }

  /// Logits -> powers of two relative to m.
  __device__ __forceinline__ void shift(float (&s)[64], const RowState& state) const {
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = fmaf(s[i], p_.scale_log2, -state.m[i / 2 % 2]);
  }

  /// Online softmax without a maximum: bf16 and float32 have the same exponents, so P may be of any size that neither
  /// overflows nor vanishes, and its sums, needed anyway, tell. m starts at 0 for each tile (so bits do not depend on
  /// who ran it) and moves to the true maximum where a sum leaves [2^-60, 2^60]; logits rarely do.
  __device__ __forceinline__ void soften(float (&s)[64], int columns, bool first, const TileHeader& tile,
                                         RowState& state, float (&o)[D / 2], std::uint32_t (&p)[8][4]) const {
    constexpr float kMost = 0x1p60F;
    constexpr float kLeast = 0x1p-60F;
    float sums[2];
    to_probabilities(s, columns, p, sums);
    bool is_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r)
      is_row[r] = token_[r] < p_.tokens && tile.first + warpgroup_ * p_.tokens + token_[r] < tile.end;
    // Rows that nobody stores may hold anything; a NaN in the others fails.
    bool good = (!is_row[0] || sums[0] <= kMost) && (!is_row[1] || sums[1] <= kMost);
    if (!state.settled) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        if (!(row_sum(state.l[r] + sums[r]) >= kLeast) && is_row[r]) good = false;
    }
    state.settled = __all_sync(~0U, good);
    if (!state.settled) move_references(s, columns, first, state, o, p, sums);
#pragma unroll
    for (int r = 0; r < 2; ++r) state.l[r] += sums[r];
  }

  /// m becomes the maximum where that is above it, or where the row has seen nothing yet; o and l follow.
  __device__ __forceinline__ void move_references(float (&s)[64], int columns, bool first, RowState& state,
                                                  float (&o)[D / 2], std::uint32_t (&p)[8][4], float (&sums)[2]) const {
    float top[2] = {kNone, kNone};
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if (i / 16 * 32 < columns) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
    float growth[2];
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float most = row_max(top[r]);
      const bool is_fresh = row_sum(state.l[r]) == 0;
      growth[r] = most == kNone ? 0.0F : is_fresh ? most : fmaxf(most, 0.0F);
      factor[r] = is_fresh ? 0.0F : exp2_approximate(-growth[r]);
      state.m[r] += growth[r];
      state.l[r] *= factor[r];
    }
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] -= growth[i / 2 % 2];
    if (!first)
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] *= factor[i / 2 % 2];
    to_probabilities(s, columns, p, sums);
  }

  /// P in operand layout (a thread holds the same elements in both layouts) and its sums. These lag a block behind the
  /// exponentials, whose latency the warp would otherwise wait for.
  __device__ __forceinline__ static void to_probabilities(const float (&s)[64], int columns, std::uint32_t (&p)[8][4],
                                                          float (&sums)[2]) {
    float e[2][16];
    const auto exponentials = [&](int block) {
#pragma unroll
      for (int i = 0; i < 16; ++i) e[block % 2][i] = exp2_approximate(s[16 * block + i]);
    };
    const auto pack_and_add = [&](int block) {
      const float(&x)[16] = e[block % 2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) p[2 * block + n][i] = pack_bf16(x[8 * n + 2 * i], x[8 * n + 2 * i + 1]);
#pragma unroll
        for (int r = 0; r < 2; ++r)
          sums[r] += x[8 * n + 2 * r] + x[8 * n + 2 * r + 1] + (x[8 * n + 4 + 2 * r] + x[8 * n + 5 + 2 * r]);
      }
    };
    sums[0] = sums[1] = 0;
    if (columns == 128) {
      exponentials(0);
#pragma unroll
      for (int block = 1; block < 4; ++block) {
        exponentials(block);
        pack_and_add(block - 1);
      }
      pack_and_add(3);
      return;
    }
#pragma unroll
    for (int block = 0; block < 3; ++block)
      if (32 * block < columns) {
        exponentials(block);
        pack_and_add(block);
      }
  }

  const Params& p_;
  int warpgroup_;
  int token_[2], head_[2];  // of this thread's two rows, within the warpgroup
};

}  // namespace purekv::cuda::sm90
