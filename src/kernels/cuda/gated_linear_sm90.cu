#include "kernels/cuda/gated_linear_sm90.h"

#include <cuda_bf16.h>

#include "base/fail.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product_sm90.cuh"

/// The gate and up products of a SwiGLU MLP with its nonlinearity, so that neither product is ever stored: two
/// separate products write 2 * ffn values a row and SwiGLU reads them again, 4 % of a prefill's time.
namespace purekv::cuda {
namespace {

using namespace products;

constexpr int kTileCols = kHalfCols;  ///< of out: as many rows of the gate's and of the up weight

struct GatedKernel {
  Product product;
  CUtensorMap out;
  int cols;
  const float *gate_terms, *up_terms;  ///< [cols] scales of fp8 weights, or biases; null: none
};

/// A scale or bias of the gate's and of the up weight: this thread's column of the tile. Read before the products,
/// whose time hides the way to memory.
__device__ __forceinline__ float2 read_terms(const GatedKernel& p, int first_col) {
  const int col = first_col + static_cast<int>(threadIdx.x) % 128;
  if (p.gate_terms == nullptr || col >= p.cols) return {0, 0};
  return {__ldg(p.gate_terms + col), __ldg(p.up_terms + col)};
}

/// silu(gate) * up by sigmoid(x) = (1 + tanh(x / 2)) / 2: one approximate instruction, at most 2^-12 off (absolute). An
/// exponential and a reciprocal took 1 % of the kernel more.
__device__ __forceinline__ float gated(float gate, float up) {
  float tangent;
  asm("tanh.approx.f32 %0, %1;" : "=f"(tangent) : "f"(0.5F * gate));
  return gate * fmaf(0.5F, tangent, 0.5F) * up;
}

/// What an accumulator stands for.
template <bool kFp8>
__device__ __forceinline__ float finished(float sum, float row_scale, float term) {
  return kFp8 ? sum * row_scale * term : sum + term;
}

/// silu(gate) * up of a tile, through shared memory to the copy engine.
template <bool kFp8>
__device__ __forceinline__ void store(const float (&d)[128], const GatedKernel& p, const Shared& shared,
                                      const Place& place, int warpgroup, float2 my_terms, const RowScales& row_scale) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  float* terms = shared.terms(warpgroup);
  terms[thread] = my_terms.x;
  terms[kTileCols + thread] = my_terms.y;
  if (thread == 0) hopper::store_wait_read();
  hopper::named_sync(1 + warpgroup, 128);
  const int to_row = thread / 32 * 16 + lane % 16;
  const std::uint32_t line = shared.out(warpgroup, 0) + to_row * kLine;
#pragma unroll
  for (int two = 0; two < kTileCols / 16; ++two) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * two + i;
      const int col = 8 * j + 2 * (lane % 4);
      const float2 g = *reinterpret_cast<const float2*>(terms + col);
      const float2 u = *reinterpret_cast<const float2*>(terms + kTileCols + col);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* x = d + 4 * j + 2 * r;
        const float* y = x + 64;
        words[2 * i + r] =
            pack_bf16(gated(finished<kFp8>(x[0], row_scale.of[r], g.x), finished<kFp8>(y[0], row_scale.of[r], u.x)),
                      gated(finished<kFp8>(x[1], row_scale.of[r], g.y), finished<kFp8>(y[1], row_scale.of[r], u.y)));
      }
    }
    hopper::store_matrices(line + two / 4 * kChunk + swizzled(two, lane, to_row), words);
  }
  hopper::proxy_fence();
  hopper::named_sync(1 + warpgroup, 128);
  if (thread == 0) {
    for (int chunk = 0; chunk < kChunks; ++chunk)
      hopper::store_box(&p.out, shared.out(warpgroup, chunk), place.tile_col * kTileCols + chunk * kChunkCols,
                        place.row + warpgroup * 64, 0);
    hopper::store_commit();
  }
}

/// 2 * 2 * rows in cols FLOPs; what a tile and a step take stands in product_sm90.cuh. Writes 2 bytes an element of
/// out. Measured on one H200 at its power limit, against the two products alone on cuBLASLt: 10,955 x 3,584 x 18,944
/// bf16 4.58 ms (4.55), 24,576 x 1,280 x 3,424 with biases 0.68 (0.69), 14,575 x 3,584 x 18,944 fp8 3.19 (3.16).
template <bool kFp8>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gated_kernel(const __grid_constant__ GatedKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  run<kFp8, kTileCols>(p.product, raw, [&](const Place& place, Consumer& consumer, float(&d)[128]) {
    const float2 terms = read_terms(p, place.tile_col * kTileCols);
    const RowScales scales = read_row_scales<kFp8>(p.product, place, consumer.warpgroup);
    consumer.multiply<kFp8>(d, 0, p.product.steps);
    store<kFp8>(d, p, consumer.shared, place, consumer.warpgroup, terms, scales);
  });
}

template <bool kFp8>
void launch(const Context& context, const GatedKernel& p) {
  static const bool allowed = (allow_shared(gated_kernel<kFp8>, kShared), true);
  static_cast<void>(allowed);
  gated_kernel<kFp8><<<blocks_of(context, p.product), kThreads, kShared, stream_of(context)>>>(p);
  check_launch("gated_linear_sm90");
}

}  // namespace

bool gated_in_one(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t out) {
  return out % 8 == 0 && is_worth_own(context, rows, in, ceil_div(out, kTileCols));
}

bool gated_sm90_takes(const Context& context, const GatedProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& gate = product.gate.weight;
  const ConstMatrixView& up = product.up.weight;
  if (!gated_in_one(context, x.rows, x.cols, gate.rows)) return false;
  if (x.dtype != gate.dtype || x.dtype != up.dtype || (x.dtype != DType::kBF16 && x.dtype != DType::kFp8)) return false;
  if (x.dtype == DType::kFp8 && (product.gate.bias != nullptr || product.up.bias != nullptr)) return false;
  if ((product.gate.bias == nullptr) != (product.up.bias == nullptr)) return false;
  return product.out.dtype == DType::kBF16 && is_aligned(x) && is_aligned(gate) && is_aligned(up) &&
         is_aligned(product.out);
}

void gated_sm90(const Context& context, const GatedProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& gate = product.gate.weight;
  const ConstMatrixView& up = product.up.weight;
  const MatrixView& out = product.out;
  const bool is_fp8 = x.dtype == DType::kFp8;
  PUREKV_ASSERT(x.cols == gate.cols && x.cols == up.cols && gate.rows == out.cols && up.rows == out.cols);
  PUREKV_ASSERT(!is_fp8 ||
                (product.x_scales != nullptr && product.gate.scales != nullptr && product.up.scales != nullptr));
  const GatedKernel p{.product = make_product(context, x, gate, up, ceil_div(out.cols, kTileCols), product.x_scales),
                      .out = map_of(out, 64),
                      .cols = static_cast<int>(out.cols),
                      .gate_terms = is_fp8 ? product.gate.scales : product.gate.bias,
                      .up_terms = is_fp8 ? product.up.scales : product.up.bias};
  if (is_fp8)
    launch<true>(context, p);
  else
    launch<false>(context, p);
}

}  // namespace purekv::cuda
