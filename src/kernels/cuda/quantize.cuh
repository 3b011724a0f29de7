#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/quantize_fused.h"
#include "kernels/cuda/rows.cuh"

/// Rows that a source makes, scaled by their largest absolute value to e4m3. A row is read once and waits in registers
/// for its largest value: the bytes are the source's, and one written an element; about 5 FLOPs an element beside the
/// source's own. What bounds it is memory, so several rows are under way on a multiprocessor at once, each in another
/// of its phases (read, reduce, write).
///
/// A source has: Raw load(row, unit), eight elements as they come from 16-byte accesses; Unit make(raw), the same as
/// they wait; values(x, unit, v, squares), what they are in the end; float element(row, i, squares), one of them; and
/// kNorm: whether the row is rms_norm()ed with the source's eps. Then `squares` takes what they add to the row's sum.
namespace purekv::cuda {

inline constexpr int kQuantizeThreads = 512;
inline constexpr float kMostE4m3 = 448.0F;
inline constexpr float kLeastScaled = kMostE4m3 * FLT_MIN;  ///< below it a row's scale has no finite inverse

/// Eight elements as they lie in memory.
struct WideUnit {
  float4 low, high;
};
__device__ inline uint4 load_raw(const __nv_bfloat16* from) { return *reinterpret_cast<const uint4*>(from); }
__device__ inline WideUnit load_raw(const float* from) {
  return {reinterpret_cast<const float4*>(from)[0], reinterpret_cast<const float4*>(from)[1]};
}
template <class T>
using RawUnit = decltype(load_raw(static_cast<const T*>(nullptr)));

__device__ inline void widen_unit(const WideUnit& raw, float (&x)[kUnit]) {
  x[0] = raw.low.x, x[1] = raw.low.y, x[2] = raw.low.z, x[3] = raw.low.w;
  x[4] = raw.high.x, x[5] = raw.high.y, x[6] = raw.high.z, x[7] = raw.high.w;
}

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
template <bool kSquares>
__device__ RowSums join_block(RowSums own) {
  __shared__ RowSums of_warp[kQuantizeThreads / 32];
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
  for (unsigned w = 1; w < blockDim.x / 32; ++w) join(own, of_warp[w]);
  return own;
}

/// Joins the block's sums and leaves the row's scale; returns the factor from x (times weight) to e4m3. A norm is one
/// positive factor of a whole row: it changes the scale, and no e4m3 value.
template <class Source>
__device__ float finish_scale(const Source& source, const QuantizedRows& to, const RowSums& own) {
  const RowSums sums = join_block<Source::kNorm>(own);
  const float scale = sums.most < kLeastScaled ? 1.0F : sums.most / kMostE4m3;
  if (threadIdx.x == 0) {
    float norm = 1;
    if constexpr (Source::kNorm) norm = 1 / sqrtf(sums.squares / static_cast<float>(to.out.cols) + source.eps);
    to.scales[blockIdx.x] = scale * norm;
  }
  return 1.0F / scale;
}

/// A block a row, kUnits units of it a thread.
template <class Source, int kUnits>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_in_registers(const Source source, const QuantizedRows to) {
  const std::int64_t row = blockIdx.x;
  const auto units = static_cast<int>(to.out.cols / kUnit);
  typename Source::Raw raw[kUnits];
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    const auto unit = static_cast<int>(threadIdx.x + n * blockDim.x);
    if (unit < units) raw[n] = source.load(row, unit);
  }
  RowSums sums;
  typename Source::Unit x[kUnits];
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    const auto unit = static_cast<int>(threadIdx.x + n * blockDim.x);
    if (unit >= units) continue;
    x[n] = source.make(raw[n]);
    float v[kUnit];
    source.values(x[n], unit, v, sums.squares);
#pragma unroll
    for (const float value : v) sums.most = larger(sums.most, fabsf(value));
  }
  const float factor = finish_scale(source, to, sums);
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    const auto unit = static_cast<int>(threadIdx.x + n * blockDim.x);
    if (unit >= units) continue;
    float v[kUnit];
    source.values(x[n], unit, v, sums.squares);
    const __nv_fp8x4_e4m3 low(make_float4(v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor));
    const __nv_fp8x4_e4m3 high(make_float4(v[4] * factor, v[5] * factor, v[6] * factor, v[7] * factor));
    reinterpret_cast<uint2*>(row_of<std::uint8_t>(to.out, row))[unit] = {low.__x, high.__x};
  }
}

/// Any width and alignment; makes a row twice, the second time from the caches.
template <class Source>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_by_elements(const Source source, const QuantizedRows to) {
  const std::int64_t row = blockIdx.x;
  RowSums sums;
  for (std::int64_t i = threadIdx.x; i < to.out.cols; i += blockDim.x)
    sums.most = larger(sums.most, fabsf(source.element(row, i, sums.squares)));
  const float factor = finish_scale(source, to, sums);
  for (std::int64_t i = threadIdx.x; i < to.out.cols; i += blockDim.x)
    row_of<__nv_fp8_e4m3>(to.out, row)[i] = __nv_fp8_e4m3(source.element(row, i, sums.squares) * factor);
}

/// `units`: whether the source's rows can be loaded by units.
template <class Source>
void quantize(const Context& context, const Source& source, const QuantizedRows& to, bool units) {
  if (to.out.rows == 0) return;
  const auto rows = static_cast<unsigned>(to.out.rows);
  const auto launch = [&]<int kUnits>(std::integral_constant<int, kUnits>) {
    const std::int64_t threads = ceil_div(ceil_div(to.out.cols / kUnit, kUnits), 32) * 32;
    if (threads > kQuantizeThreads) return false;
    quantize_in_registers<Source, kUnits><<<rows, static_cast<unsigned>(threads), 0, stream_of(context)>>>(source, to);
    return true;
  };
  const bool fits = units && has_units(to.out) &&
                    (launch(std::integral_constant<int, 4>{}) || launch(std::integral_constant<int, 6>{}));
  if (!fits) quantize_by_elements<<<rows, kQuantizeThreads, 0, stream_of(context)>>>(source, to);
  check_launch("quantising rows");
}

}  // namespace purekv::cuda
