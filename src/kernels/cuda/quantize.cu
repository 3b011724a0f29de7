#include "kernels/quantize.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "base/fail.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/narrow.h"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kMostE4m3 = 448.0F;

__device__ float widen(float x) { return x; }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

/// Block maximum; a NaN anywhere makes the result NaN.
__device__ float block_max(float value) {
  __shared__ float parts[kThreads / 32];
  const auto larger = [](float a, float b) { return (a >= b || isnan(a)) ? a : b; };
  for (int step = 16; step > 0; step /= 2) value = larger(value, __shfl_xor_sync(~0U, value, step));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < kThreads / 32; ++i) value = larger(value, parts[i]);
  return value;
}

/// One block a row.
template <class T>
__global__ void quantize_kernel(const T* in, std::int64_t in_stride, std::int64_t cols, __nv_fp8_e4m3* out,
                                std::int64_t out_stride, float* scales) {
  const T* x = in + static_cast<std::int64_t>(blockIdx.x) * in_stride;
  __nv_fp8_e4m3* y = out + static_cast<std::int64_t>(blockIdx.x) * out_stride;
  float most = 0;
  for (std::int64_t i = threadIdx.x; i < cols; i += kThreads) {
    const float value = fabsf(widen(x[i]));
    most = (value >= most || isnan(value)) ? value : most;
  }
  most = block_max(most);
  const float scale = most > 0 || isnan(most) ? most / kMostE4m3 : 1.0F;
  const float inverse = 1.0F / scale;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (std::int64_t i = threadIdx.x; i < cols; i += kThreads) y[i] = __nv_fp8_e4m3(widen(x[i]) * inverse);
}

/// The same for bf16 rows of a multiple of 8 values, 16 bytes a thread and step.
__global__ void quantize_wide_kernel(const __nv_bfloat16* in, std::int64_t in_stride, std::int64_t cols,
                                     __nv_fp8_e4m3* out, std::int64_t out_stride, float* scales) {
  const auto* x = reinterpret_cast<const uint4*>(in + static_cast<std::int64_t>(blockIdx.x) * in_stride);
  auto* y = reinterpret_cast<uint2*>(out + static_cast<std::int64_t>(blockIdx.x) * out_stride);
  float most = 0;
  for (std::int64_t i = threadIdx.x; i < cols / 8; i += kThreads) {
    const uint4 eight = x[i];
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&eight);
    for (int j = 0; j < 4; ++j) {
      const float2 two = __bfloat1622float2(pairs[j]);
      for (const float value : {fabsf(two.x), fabsf(two.y)}) most = (value >= most || isnan(value)) ? value : most;
    }
  }
  most = block_max(most);
  const float scale = most > 0 || isnan(most) ? most / kMostE4m3 : 1.0F;
  const float inverse = 1.0F / scale;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (std::int64_t i = threadIdx.x; i < cols / 8; i += kThreads) {
    const uint4 eight = x[i];
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&eight);
    uint2 packed;
    auto* fours = reinterpret_cast<__nv_fp8x4_e4m3*>(&packed);
    for (int j = 0; j < 2; ++j) {
      const float2 low = __bfloat1622float2(pairs[2 * j]);
      const float2 high = __bfloat1622float2(pairs[2 * j + 1]);
      fours[j] = __nv_fp8x4_e4m3(make_float4(low.x * inverse, low.y * inverse, high.x * inverse, high.y * inverse));
    }
    y[i] = packed;
  }
}

__global__ void narrow_kernel(const float* in, std::int64_t in_stride, std::int64_t cols, __nv_bfloat16* out,
                              std::int64_t out_stride) {
  const float* x = in + static_cast<std::int64_t>(blockIdx.x) * in_stride;
  __nv_bfloat16* y = out + static_cast<std::int64_t>(blockIdx.x) * out_stride;
  for (std::int64_t i = threadIdx.x; i < cols; i += kThreads) y[i] = __float2bfloat16(x[i]);
}

bool is_wide(const QuantizeParams& p) {
  const auto aligned = [](const void* data, std::int64_t bytes, std::uintptr_t to) {
    return ((reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(bytes)) & (to - 1)) == 0;
  };
  return p.in.dtype == DType::kBF16 && p.in.cols % 8 == 0 && aligned(p.in.data, 2 * p.in.stride, 16) &&
         aligned(p.out.data, p.out.stride, 8);
}

}  // namespace

void quantize_rows(const Context& context, const QuantizeParams& p) {
  if (p.in.rows == 0) return;
  const auto blocks = static_cast<unsigned>(p.in.rows);
  auto* out = p.out.row<__nv_fp8_e4m3>(0);
  if (is_wide(p))
    quantize_wide_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(p.in.row<__nv_bfloat16>(0), p.in.stride,
                                                                      p.in.cols, out, p.out.stride, p.scales);
  else if (p.in.dtype == DType::kBF16)
    quantize_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(p.in.row<__nv_bfloat16>(0), p.in.stride, p.in.cols,
                                                                 out, p.out.stride, p.scales);
  else
    quantize_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(p.in.row<float>(0), p.in.stride, p.in.cols, out,
                                                                 p.out.stride, p.scales);
  check_launch("quantising rows");
}

void narrow(const Context& context, const ConstMatrixView& in, const MatrixView& out) {
  PUREKV_ASSERT(in.dtype == DType::kF32 && out.dtype == DType::kBF16 && in.rows == out.rows && in.cols == out.cols);
  if (in.rows == 0) return;
  narrow_kernel<<<static_cast<unsigned>(in.rows), kThreads, 0, stream_of(context)>>>(
      in.row<float>(0), in.stride, in.cols, out.row<__nv_bfloat16>(0), out.stride);
  check_launch("rounding rows");
}

}  // namespace purekv::cuda
