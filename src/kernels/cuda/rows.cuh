#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "base/fail.h"
#include "base/matrix.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

/// What the operations on rows share: eight elements a thread in 16-byte accesses where rows allow it, else one.
namespace purekv::cuda {

inline constexpr int kUnit = 8;  ///< elements a thread takes where rows are aligned
inline constexpr int kRowThreads = 256;

/// Row i of a view, in device code.
template <class T>
__device__ inline T* row_of(const MatrixView& m, std::int64_t i) {
  return static_cast<T*>(m.data) + i * m.stride;
}
template <class T>
__device__ inline const T* row_of(const ConstMatrixView& m, std::int64_t i) {
  return static_cast<const T*>(m.data) + i * m.stride;
}

/// Eight bf16 elements in float32.
__device__ inline void widen_unit(const uint4& raw, float (&x)[kUnit]) {
  const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

/// N neighbouring elements in float32; N = 8 needs 16-byte alignment.
template <class T, int N>
__device__ inline void load_unit(const T* from, float (&x)[N]) {
  if constexpr (N == 1) {
    x[0] = static_cast<float>(*from);
  } else if constexpr (sizeof(T) == 2) {
    widen_unit(*reinterpret_cast<const uint4*>(from), x);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 four = reinterpret_cast<const float4*>(from)[i];
      x[4 * i] = four.x;
      x[4 * i + 1] = four.y;
      x[4 * i + 2] = four.z;
      x[4 * i + 3] = four.w;
    }
  }
}

template <class T, int N>
__device__ inline void store_unit(T* to, const float (&x)[N]) {
  if constexpr (N == 1) {
    *to = static_cast<T>(x[0]);
  } else if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint4*>(to) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                     pack_bf16(x[6], x[7])};
  } else {
    reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
    reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
  }
}

/// x * sigmoid(x). The division by the reciprocal instruction is good to 2 ulp and a third of an exact one.
__device__ inline float silu(float x) { return __fdividef(x, 1 + __expf(-x)); }

/// Calls op(row, unit) for every unit of every row, one a thread. Only the block's place takes a 64-bit division.
template <class Op>
__global__ void __launch_bounds__(kRowThreads) map_units(const Op op, std::int64_t total, std::uint32_t units) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kRowThreads;
  if (start + threadIdx.x >= total) return;
  const std::int64_t row = start / units;
  const auto at = static_cast<std::uint32_t>(start - row * units) + threadIdx.x;
  op(row + at / units, static_cast<int>(at % units));
}

template <class Op>
void launch_units(const Context& context, const Op& op, std::int64_t rows, std::int64_t units, const char* what) {
  const std::int64_t total = rows * units;
  if (total == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(total, kRowThreads));
  map_units<<<blocks, kRowThreads, 0, stream_of(context)>>>(op, total, static_cast<std::uint32_t>(units));
  check_launch(what);
}

inline bool is_aligned_16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// Whether every row is whole units on 16-byte boundaries.
inline bool has_units(const ConstMatrixView& m) {
  return m.cols % kUnit == 0 && is_aligned_16(m.data) &&
         m.stride * static_cast<std::int64_t>(size_of(m.dtype)) % 16 == 0;
}

/// Calls f with a value of the element type: float or bf16. Others are no activations.
template <class F>
void with_element(DType dtype, F&& f) {
  PUREKV_ASSERT(dtype == DType::kF32 || dtype == DType::kBF16);
  if (dtype == DType::kF32)
    f(float{});
  else
    f(__nv_bfloat16{});
}

/// Calls f with an integral constant: 8 where units can be moved, else 1.
template <class F>
void with_unit(bool units, F&& f) {
  if (units)
    f(std::integral_constant<int, kUnit>{});
  else
    f(std::integral_constant<int, 1>{});
}

}  // namespace purekv::cuda
