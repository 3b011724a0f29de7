#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/frame_rows.h"
#include "kernels/cuda/score_tiles.cuh"

/// What the kernels of value norms share. ||W_o^h v|| = sqrt(v^T G_h v) on the tensor cores in one precision of 11
/// bits: a row is scaled by a power of two so that its largest value lies in [1, 2), which makes a bf16 value exact as
/// fp16 (but for those 2^-14 below the row's largest), and G_h likewise. Novelty multiplies the difference itself,
/// formed in float32 and then rounded: the difference of two products would cancel where frames are alike. Error near
/// 2^-12 of the norm.
///
/// G is symmetric: v^T G v = v^T U v with U triangular, off-diagonal values doubled. Dims are permuted as in
/// score_tiles.cuh, and an accumulator's columns are the dims that the same lane holds as operand: the second product
/// with v is a sum in registers.
namespace purekv::cuda {

struct NormKernel {
  HeadPointers v;
  ScoreOperand values;
  const uint4* u;        ///< [heads] packed triangles
  const float* unscale;  ///< [heads] u is G divided by this
  const int* earlier;    ///< [rows] FrameRows::earlier; null: no novelty
  long long rows;
  int group;
  float* out;  ///< or null
  float* nov;
};

/// Whether two parts of kDimsAPart dims hold a head's row; else it takes four.
inline bool is_narrow(const HeadShape& shape) { return shape.head_dim <= 2 * kDimsAPart; }

__device__ inline unsigned pack_half(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

/// Square root on the special-function unit, to about 2^-23; 0 of 0.
__device__ inline float root(float x) {
  float r;
  asm("sqrt.approx.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  return r;
}

/// Volatile: the values are the same for every head of a group, and as floats they would not stay in registers.
__device__ inline float2 unpack_half(unsigned x) {
  float2 pair;
  asm volatile("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}\n"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(x));
  return pair;
}

/// The power of two with the exponent field `field`, kept finite with a finite inverse.
__device__ inline float power_of_two(int field) { return __int_as_float(min(max(field, 1), 253) << 23); }

/// The dim at place `place` (0 to 15) of k-step `step`: the permutation of kernels/cuda/score_tiles.cuh.
__device__ inline int dim_at(int step, int place) {
  return kDimsAPart * (step / 2) + 8 * (place % 8 / 2) + 4 * (step % 2) + 2 * (place / 8) + place % 2;
}

/// A dim's place: k-step and place in it.
struct DimPlace {
  int step, place;
};

/// A value of the upper triangle, doubled off the diagonal; 0 past the head's dims.
__device__ inline float triangle(const float* gram, int dims, DimPlace row, DimPlace column) {
  const int i = dim_at(row.step, row.place);
  const int j = dim_at(column.step, column.place);
  const int order = 16 * (row.step - column.step) + row.place - column.place;
  if (i >= dims || j >= dims || order > 0) return 0.0F;
  return (order == 0 ? 1.0F : 2.0F) * gram[i * dims + j];
}

/// What a block of kThreads multiplies a Gram matrix by: the largest value becomes 2^13 to 2^14. Doubled it still is an
/// fp16, and 2^-28 of it too.
template <int kThreads>
__device__ float gram_scale(const float* gram, int dims) {
  __shared__ unsigned tops[kThreads];
  unsigned top = 0;
  for (int i = threadIdx.x; i < dims * dims; i += kThreads) top = max(top, __float_as_uint(gram[i]) & 0x7FFFFFFFU);
  tops[threadIdx.x] = top;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) tops[threadIdx.x] = max(tops[threadIdx.x], tops[threadIdx.x + half]);
  }
  __syncthreads();
  constexpr int kTopExponent = 13;
  return power_of_two(2 * 127 + kTopExponent - static_cast<int>(tops[0] >> 23));
}

/// A warp's 16 rows as A fragments, fp16, and what each lane's two rows (g, g + 8) were multiplied by.
template <int kParts>
struct ScaledRows {
  unsigned a[2 * kParts][4];
  float unscale[2];
};

/// Row `half` of a lane from its 8 kParts values.
template <int kParts>
__device__ void scale_row(const float (&x)[8 * kParts], int half, ScaledRows<kParts>& rows) {
  unsigned top = 0;
#pragma unroll
  for (float value : x) top = max(top, __float_as_uint(value) & 0x7FFFFFFFU);
  top = max(top, __shfl_xor_sync(kFullWarp, top, 1));
  top = max(top, __shfl_xor_sync(kFullWarp, top, 2));
  const float scale = power_of_two(2 * 127 - static_cast<int>(top >> 23));
  rows.unscale[half] = 1.0F / scale;
#pragma unroll
  for (int i = 0; i < 4 * kParts; ++i) {
    const unsigned word = pack_half(x[2 * i] * scale, x[2 * i + 1] * scale);
    rows.a[i / 2][half + 2 * (i % 2)] = word;
  }
}

/// Row words as they are stored: dims 32 p + 8 t .. + 7.
template <bool kAligned, int kParts>
__device__ void load_row(const Bf16Bits* row, int dims, uint4 (&words)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p)
    words[p] = load_dims<kAligned>(row, kDimsAPart * p + 8 * static_cast<int>(threadIdx.x % 4), dims);
}

template <int kParts>
__device__ void unpack_row(const uint4 (&words)[kParts], float (&x)[8 * kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const unsigned all[4] = {words[p].x, words[p].y, words[p].z, words[p].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_bf16(all[i]);
      x[8 * p + 2 * i] = pair.x;
      x[8 * p + 2 * i + 1] = pair.y;
    }
  }
}

}  // namespace purekv::cuda
