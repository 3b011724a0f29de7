#include "kernels/decode_begin.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "base/fail.h"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;

/// Plain data of one launch; shapes as in DecodeBeginParams.
struct Begin {
  const void* table;
  DType dtype;
  std::int64_t table_stride;
  const std::int32_t* ids;
  const std::int32_t* positions;
  const float* inverse_frequency;
  int hidden, half;
  float* out;
  std::int64_t out_stride;
  float* cos;
  float* sin;
};

__device__ float element(const Begin& p, std::int64_t at) {
  if (p.dtype == DType::kF32) return static_cast<const float*>(p.table)[at];
  if (p.dtype == DType::kBF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(p.table)[at]);
  return __half2float(static_cast<const __half*>(p.table)[at]);
}

/// blockIdx.y: the sequence. Reads one table row (2 hidden bytes in bf16), writes 4 hidden and 8 half bytes. Angles
/// reach the number of positions, so sine and cosine are the exact ones, after a float32 product as on the CPU.
__global__ void __launch_bounds__(kThreads) decode_begin_kernel(const Begin p) {
  wait_for_previous();
  let_next_start();
  const std::int64_t sequence = blockIdx.y;
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const std::int64_t id = max(p.ids[sequence], 0);
  if (i < p.hidden) p.out[sequence * p.out_stride + i] = element(p, id * p.table_stride + i);
  if (i >= p.half) return;
  const float angle = __fmul_rn(static_cast<float>(p.positions[sequence]), p.inverse_frequency[i]);
  p.cos[sequence * p.half + i] = cosf(angle);
  p.sin[sequence * p.half + i] = sinf(angle);
}

__global__ void __launch_bounds__(kThreads)
    decode_end_kernel(KvRows* rows, int count, std::int32_t* positions, int sequences) {
  wait_for_previous();
  let_next_start();
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < count) ++rows[i].rows;
  if (i < sequences) ++positions[i];
}

unsigned blocks_for(std::int64_t items) {
  return static_cast<unsigned>(std::max<std::int64_t>(1, ceil_div(items, kThreads)));
}

}  // namespace

void decode_begin(const Context& context, const DecodeBeginParams& params) {
  PUREKV_ASSERT(params.hidden.dtype == DType::kF32 && params.hidden.cols == params.table.cols);
  const Begin p{.table = params.table.data,
                .dtype = params.table.dtype,
                .table_stride = params.table.stride,
                .ids = params.ids,
                .positions = params.positions,
                .inverse_frequency = params.inverse_frequency,
                .hidden = static_cast<int>(params.hidden.cols),
                .half = static_cast<int>(params.half),
                .out = static_cast<float*>(params.hidden.data),
                .out_stride = params.hidden.stride,
                .cos = params.cos,
                .sin = params.sin};
  const dim3 grid(blocks_for(std::max(params.hidden.cols, params.half)), static_cast<unsigned>(params.hidden.rows));
  launch_chained(context, decode_begin_kernel, grid, kThreads, 0, p);
}

void decode_end(const Context& context, const DecodeEndParams& params) {
  launch_chained(context, decode_end_kernel, dim3(blocks_for(std::max(params.count, params.sequences))), kThreads, 0,
                 params.rows, static_cast<int>(params.count), params.positions, static_cast<int>(params.sequences));
}

}  // namespace purekv::cuda
