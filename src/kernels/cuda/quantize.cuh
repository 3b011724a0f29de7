#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/quantize_fused.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize.h"

/// Rows that a source makes, scaled by their largest absolute value to e4m3. A row is read once and waits in registers
/// for its largest value: the bytes are the source's, and one written an element; about 5 FLOPs an element beside the
/// source's own. What bounds it is memory, then instructions: several rows are under way on a multiprocessor at once,
/// each in another of its phases (read, reduce, write), and few threads with much of a row each beat many with little
/// (a normed row of 3,584 bf16 values on an H200: 2.3 TB/s by 448 threads, 3.5 by 128). Lines that are read are left
/// to the second-level cache's own choice: marked as read once they cost a tenth of the rate.
///
/// A source has: Raw load(row, unit), eight elements as they come from 16-byte accesses; Unit make(raw, unit, squares),
/// the same as they wait; float element(row, i, squares), one of them; and kNorm: whether the row is rms_norm()ed with
/// the source's eps. Then `squares` takes what they add to the row's sum.
namespace purekv::cuda {

/// Eight float32 elements. Those of bf16 wait as they came, in a uint4.
struct WideUnit {
  float x[kUnit];
};
__device__ inline void widen_unit(const WideUnit& raw, float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; ++i) x[i] = raw.x[i];
}

/// Eight elements as they lie in memory.
__device__ inline uint4 load_raw(const __nv_bfloat16* from) { return *reinterpret_cast<const uint4*>(from); }
__device__ inline WideUnit load_raw(const float* from) {
  WideUnit raw;
  load_unit(from, raw.x);
  return raw;
}
template <class T>
using RawUnit = decltype(load_raw(static_cast<const T*>(nullptr)));

/// The larger; NaN wins, so that a model with NaN weights shows it.
__device__ inline float larger(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;\n" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

/// What of a row has to be known before it can be written.
struct RowSums {
  float squares = 0;  ///< of its elements, where it is normed
  float most = 0;     ///< largest absolute value, times the norm's weight
};

/// Over the block, the same bits in every thread and on every run.
template <bool kSquares, int kThreads>
__device__ RowSums join_block(RowSums own) {
  __shared__ RowSums of_warp[kThreads / 32];
  const auto join = [](RowSums& a, const RowSums& b) {
    if constexpr (kSquares) a.squares += b.squares;
    a.most = larger(a.most, b.most);
  };
  for (int d = 16; d > 0; d /= 2) {
    RowSums other;
    if constexpr (kSquares) other.squares = __shfl_xor_sync(~0U, own.squares, d);
    other.most = __shfl_xor_sync(~0U, own.most, d);
    join(own, other);
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = own;
  __syncthreads();
  own = of_warp[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w) join(own, of_warp[w]);
  return own;
}

/// Joins the block's sums and leaves the row's scale; returns the factor from x (times weight) to e4m3. A norm is one
/// positive factor of a whole row: it changes the scale, and no e4m3 value.
template <int kThreads, class Source>
__device__ float finish_scale(const Source& source, const QuantizedRows& to, const RowSums& own) {
  const RowSums sums = join_block<Source::kNorm, kThreads>(own);
  const float scale = sums.most < kLeastScaled ? 1.0F : sums.most / kMostE4m3;
  if (threadIdx.x == 0) {
    float norm = 1;
    if constexpr (Source::kNorm) norm = 1 / sqrtf(sums.squares / static_cast<float>(to.out.cols) + source.eps);
    to.scales[blockIdx.x] = scale * norm;
  }
  return 1.0F / scale;
}

/// A block a row, kUnits units of it a thread.
template <class Source, int kThreads, int kUnits>
__global__ void __launch_bounds__(kThreads) quantize_in_registers(const Source source, const QuantizedRows to) {
  const std::int64_t row = blockIdx.x;
  const auto first = static_cast<int>(threadIdx.x);
  const auto units = static_cast<int>(to.out.cols / kUnit);
  typename Source::Raw raw[kUnits];
#pragma unroll
  for (int n = 0; n < kUnits; ++n)
    if (first + n * kThreads < units) raw[n] = source.load(row, first + n * kThreads);
  RowSums sums;
  typename Source::Unit x[kUnits];
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    if (first + n * kThreads >= units) continue;
    x[n] = source.make(raw[n], first + n * kThreads, sums.squares);
    float v[kUnit];
    widen_unit(x[n], v);
#pragma unroll
    for (const float value : v) sums.most = larger(sums.most, fabsf(value));
  }
  const float factor = finish_scale<kThreads>(source, to, sums);
  auto* out = reinterpret_cast<uint2*>(row_of<std::uint8_t>(to.out, row)) + first;
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    if (first + n * kThreads >= units) continue;
    float v[kUnit];
    widen_unit(x[n], v);
    const __nv_fp8x4_e4m3 low(make_float4(v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor));
    const __nv_fp8x4_e4m3 high(make_float4(v[4] * factor, v[5] * factor, v[6] * factor, v[7] * factor));
    out[n * kThreads] = {low.__x, high.__x};
  }
}

/// Any width and alignment; makes a row twice, the second time from the caches.
template <class Source, int kThreads>
__global__ void __launch_bounds__(kThreads) quantize_by_elements(const Source source, const QuantizedRows to) {
  const std::int64_t row = blockIdx.x;
  RowSums sums;
  for (std::int64_t i = threadIdx.x; i < to.out.cols; i += kThreads)
    sums.most = larger(sums.most, fabsf(source.element(row, i, sums.squares)));
  const float factor = finish_scale<kThreads>(source, to, sums);
  for (std::int64_t i = threadIdx.x; i < to.out.cols; i += kThreads)
    row_of<__nv_fp8_e4m3>(to.out, row)[i] = __nv_fp8_e4m3(source.element(row, i, sums.squares) * factor);
}

/// `units`: whether the source's rows can be loaded by units.
template <class Source>
void quantize(const Context& context, const Source& source, const QuantizedRows& to, bool units) {
  if (to.out.rows == 0) return;
  constexpr int kFew = 128;
  constexpr int kMany = 512;
  const auto rows = static_cast<unsigned>(to.out.rows);
  const bool whole = units && has_units(to.out);
  if (whole && to.out.cols <= kFew * 4 * kUnit)
    quantize_in_registers<Source, kFew, 4><<<rows, kFew, 0, stream_of(context)>>>(source, to);
  else if (whole && to.out.cols <= kMany * 6 * kUnit)
    quantize_in_registers<Source, kMany, 6><<<rows, kMany, 0, stream_of(context)>>>(source, to);
  else
    quantize_by_elements<Source, kMany><<<rows, kMany, 0, stream_of(context)>>>(source, to);
  check_launch("quantising rows");
}

}  // namespace purekv::cuda
