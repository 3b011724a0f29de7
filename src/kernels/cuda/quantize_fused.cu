#include "kernels/cuda/quantize_fused.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "base/fail.h"
#include "kernels/cuda/launch.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 512;
constexpr float kMostE4m3 = 448.0F;

struct Eight {
  float x[8];
};

/// silu(gate) * up of eight neighbours.
struct SwigluSource {
  static constexpr bool kNorm = false;
  const __nv_bfloat16 *gate, *up;
  std::int64_t gate_stride, up_stride;

  __device__ Eight load(std::int64_t row, std::int64_t v) const {
    const uint4 a = reinterpret_cast<const uint4*>(gate + row * gate_stride)[v];
    const uint4 b = reinterpret_cast<const uint4*>(up + row * up_stride)[v];
    Eight out;
    for (int j = 0; j < 4; ++j) {
      const float2 g = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(&a)[j]);
      const float2 u = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(&b)[j]);
      out.x[2 * j] = g.x / (1.0F + __expf(-g.x)) * u.x;
      out.x[2 * j + 1] = g.y / (1.0F + __expf(-g.y)) * u.y;
    }
    return out;
  }
};

/// Eight neighbours of a float32 row that is normed afterwards.
struct NormSource {
  static constexpr bool kNorm = true;
  const float *x, *norm_weight;
  std::int64_t stride;
  float eps;

  __device__ Eight load(std::int64_t row, std::int64_t v) const {
    const auto* from = reinterpret_cast<const float4*>(x + row * stride) + 2 * v;
    const float4 a = from[0];
    const float4 b = from[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }
  __device__ float weight(std::int64_t i) const { return norm_weight[i]; }
};

/// NaN wins, so that a model with NaN weights shows it.
__device__ float larger(float a, float b) { return (a >= b || isnan(a)) ? a : b; }

template <class Join>
__device__ float block_reduce(float value, float* parts, Join join) {
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(~0U, value, step));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[0];
  for (int i = 1; i < kThreads / 32; ++i) value = join(value, parts[i]);
  __syncthreads();
  return value;
}

/// One block a row; the row waits in shared memory (cols * 4 bytes) for its largest value.
template <class Source>
__global__ void __launch_bounds__(kThreads)
    fused_kernel(Source source, std::int64_t cols, __nv_fp8_e4m3* out, std::int64_t out_stride, float* scales) {
  extern __shared__ float row_values[];
  __shared__ float parts[kThreads / 32];
  const std::int64_t row = blockIdx.x;
  const std::int64_t vectors = cols / 8;
  float most = 0;
  float squares = 0;
  for (std::int64_t v = threadIdx.x; v < vectors; v += kThreads) {
    const Eight eight = source.load(row, v);
    for (int j = 0; j < 8; ++j) {
      row_values[8 * v + j] = eight.x[j];
      if constexpr (Source::kNorm)
        squares += eight.x[j] * eight.x[j];
      else
        most = larger(fabsf(eight.x[j]), most);
    }
  }
  float inverse_rms = 1.0F;
  if constexpr (Source::kNorm) {
    squares = block_reduce(squares, parts, [](float a, float b) { return a + b; });
    inverse_rms = rsqrtf(squares / static_cast<float>(cols) + source.eps);
    // A thread meets only values that it stored itself.
    for (std::int64_t v = threadIdx.x; v < vectors; v += kThreads)
      for (int j = 0; j < 8; ++j) {
        float& value = row_values[8 * v + j];
        value *= inverse_rms * source.weight(8 * v + j);
        most = larger(fabsf(value), most);
      }
  }
  most = block_reduce(most, parts, larger);
  const float scale = most > 0 || isnan(most) ? most / kMostE4m3 : 1.0F;
  const float inverse = 1.0F / scale;
  if (threadIdx.x == 0) scales[row] = scale;
  auto* to = reinterpret_cast<uint2*>(out + row * out_stride);
  for (std::int64_t v = threadIdx.x; v < vectors; v += kThreads) {
    uint2 packed;
    auto* fours = reinterpret_cast<__nv_fp8x4_e4m3*>(&packed);
    const float* x = row_values + 8 * v;
    for (int j = 0; j < 2; ++j)
      fours[j] = __nv_fp8x4_e4m3(
          make_float4(x[4 * j] * inverse, x[4 * j + 1] * inverse, x[4 * j + 2] * inverse, x[4 * j + 3] * inverse));
    to[v] = packed;
  }
}

template <class Source>
void launch(const Context& context, const Source& source, const QuantizedRows& rows) {
  if (rows.out.rows == 0) return;
  const auto shared = static_cast<std::size_t>(rows.out.cols) * sizeof(float);
  allow_shared(fused_kernel<Source>, shared);
  fused_kernel<Source><<<static_cast<unsigned>(rows.out.rows), kThreads, shared, stream_of(context)>>>(
      source, rows.out.cols, rows.out.row<__nv_fp8_e4m3>(0), rows.out.stride, rows.scales);
  check_launch("quantising rows");
}

}  // namespace

bool fuses_quantize(const Context& context, std::int64_t cols) {
  constexpr std::size_t kStatic = 1024;  // the reduction's own shared memory
  return cols % 8 == 0 && static_cast<std::size_t>(cols) * sizeof(float) + kStatic <= context.cuda->smem_bytes;
}

void rms_norm_quantize(const Context& context, const ConstMatrixView& x, const NormOperand& norm,
                       const QuantizedRows& rows) {
  PUREKV_ASSERT(x.dtype == DType::kF32 && x.stride % 4 == 0 && x.cols == rows.out.cols);
  launch(context, NormSource{x.row<float>(0), norm.weight, x.stride, norm.eps}, rows);
}

void swiglu_quantize(const Context& context, const ConstMatrixView& gate, const ConstMatrixView& up,
                     const QuantizedRows& rows) {
  PUREKV_ASSERT(gate.dtype == DType::kBF16 && up.dtype == DType::kBF16 && gate.cols == rows.out.cols);
  PUREKV_ASSERT(gate.stride % 8 == 0 && up.stride % 8 == 0);
  launch(context, SwigluSource{gate.row<__nv_bfloat16>(0), up.row<__nv_bfloat16>(0), gate.stride, up.stride}, rows);
}

}  // namespace purekv::cuda
