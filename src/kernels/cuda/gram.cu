#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "base/fail.h"
#include "device/buffer.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

/// W_o^h^T W_o^h in float32: it is formed once a model, so one path on the plain FMA units serves every dtype. A block
/// has one head and a share of the hidden rows; a thread sums 8 x 8 values of a 128 x 128 tile from slices of 16 rows
/// (16 KiB of shared memory, twice). 2 * hidden * head_dim^2 * heads FLOPs; reads W_o once for head_dim up to 128.
namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 128;  ///< dims of a head that a block has, in both directions
constexpr int kSlice = 16;  ///< hidden rows at once
constexpr int kShares = 8;

struct GramKernel {
  const void* w;
  const float* scales;  ///< [hidden] of fp8 weights
  DType dtype;
  long long stride;
  int hidden, dims, heads;
  float* parts;  ///< [kShares, heads, dims, dims]
};

__device__ float load_weight(const GramKernel& p, long long row, long long column) {
  const long long i = row * p.stride + column;
  if (p.dtype == DType::kF32) return static_cast<const float*>(p.w)[i];
  if (p.dtype == DType::kF16) return __half2float(static_cast<const __half*>(p.w)[i]);
  if (p.dtype == DType::kFp8) return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(p.w)[i]) * p.scales[row];
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p.w)[i]);
}

/// Dims [first, first + kTile) of a head in hidden rows [row, row + kSlice), zeros outside.
__device__ void load_slice(const GramKernel& p, int head, int row, int end, int first, float (&slice)[kSlice][kTile]) {
  for (int i = threadIdx.x; i < kSlice * kTile; i += kThreads) {
    const int r = row + i / kTile;
    const int dim = first + i % kTile;
    slice[i / kTile][i % kTile] =
        r < end && dim < p.dims ? load_weight(p, r, static_cast<long long>(head) * p.dims + dim) : 0.0F;
  }
}

/// Grid: shares, heads, tiles of the Gram matrix. Thread (y, x) of 16 x 16 has rows 4y .. + 3 and 64 + 4y .. + 3,
/// columns alike, so that a warp's reads are words of 16 bytes without bank conflicts.
__global__ void __launch_bounds__(kThreads) sum_products(GramKernel p) {
  __shared__ float a[kSlice][kTile];
  __shared__ float b[kSlice][kTile];
  const int tiles = (p.dims + kTile - 1) / kTile;
  const int first_row = static_cast<int>(blockIdx.z) / tiles * kTile;
  const int first_column = static_cast<int>(blockIdx.z) % tiles * kTile;
  const int head = blockIdx.y;
  const int share = (p.hidden + kShares - 1) / kShares;
  const int begin = static_cast<int>(blockIdx.x) * share;
  const int end = min(begin + share, p.hidden);
  const int y = 4 * (threadIdx.x / 16);
  const int x = 4 * (threadIdx.x % 16);
  const float(*second)[kTile] = first_row != first_column ? b : a;
  float sum[8][8] = {};
  for (int row = begin; row < end; row += kSlice) {
    __syncthreads();
    load_slice(p, head, row, end, first_row, a);
    if (first_row != first_column) load_slice(p, head, row, end, first_column, b);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSlice; ++k) {
      float left[8];
      float right[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        left[i] = a[k][y + i % 4 + i / 4 * 64];
        right[i] = second[k][x + i % 4 + i / 4 * 64];
      }
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[i / 8][i % 8] = fmaf(left[i / 8], right[i % 8], sum[i / 8][i % 8]);
    }
  }
  float* part = p.parts + (static_cast<long long>(blockIdx.x) * p.heads + head) * p.dims * p.dims;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int row = first_row + y + i / 8 % 4 + i / 32 * 64;
    const int column = first_column + x + i % 4 + i % 8 / 4 * 64;
    if (row < p.dims && column < p.dims) part[row * p.dims + column] = sum[i / 8][i % 8];
  }
}

__global__ void __launch_bounds__(kThreads) sum_shares(const float* parts, long long count, float* gram) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (int share = 0; share < kShares; ++share) sum += parts[share * count + i];
  gram[i] = sum;
}

}  // namespace

void gram(const Context& context, const GramParams& params) {
  const std::int64_t d = params.shape.head_dim;
  const std::int64_t count = params.shape.heads * d * d;
  const Buffer parts(context, kShares * count * static_cast<std::int64_t>(sizeof(float)));
  const GramKernel p{.w = params.w_o.data,
                     .scales = params.scales,
                     .dtype = params.w_o.dtype,
                     .stride = params.w_o.stride,
                     .hidden = static_cast<int>(params.w_o.rows),
                     .dims = static_cast<int>(d),
                     .heads = static_cast<int>(params.shape.heads),
                     .parts = parts.as<float>()};
  const auto tiles = static_cast<unsigned>(ceil_div(d, kTile));
  const dim3 grid(kShares, static_cast<unsigned>(params.shape.heads), tiles * tiles);
  sum_products<<<grid, kThreads, 0, stream_of(context)>>>(p);
  check_launch("forming Gram matrices");
  const auto blocks = static_cast<unsigned>(ceil_div(count, kThreads));
  sum_shares<<<blocks, kThreads, 0, stream_of(context)>>>(parts.as<float>(), count, params.gram);
  check_launch("forming Gram matrices");
  if (params.packed != nullptr) pack_gram(context, params.shape, params.gram, params.packed);
}

}  // namespace purekv::cuda
