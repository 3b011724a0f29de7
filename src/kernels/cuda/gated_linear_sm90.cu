#include "kernels/cuda/gated_linear_sm90.h"

#include "base/fail.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product_sm90.cuh"

/// The gate and up products of a SwiGLU MLP with its nonlinearity, so that neither product is ever stored: two
/// separate products write 2 * ffn values a row and SwiGLU reads them again, 4 % of a prefill's time.
namespace purekv::cuda {
namespace {

using namespace products;

constexpr int kOutCols = 96;  ///< of a tile: as many rows of the gate's and of the up weight
using GatedTile = Tile<2 * kOutCols, 2 * kOutCols>;

/// What belongs to a column beside its weights.
enum class Term { kNone, kBias, kScale };

struct GatedKernel {
  Product product;
  CUtensorMap gate, up;
  std::uint16_t* out;  ///< bf16
  std::int64_t out_stride;
  int cols;
  const float *gate_terms, *up_terms;  ///< [cols]
};

struct GatedWeights {
  static constexpr int kBoxes = 2;
  const GatedKernel& p;
  __device__ const CUtensorMap* map(int box) const { return box == 0 ? &p.gate : &p.up; }
  __device__ static int row(int tile_col, int) { return tile_col * kOutCols; }
};

/// silu(gate) * up by sigmoid(x) = (1 + tanh(x / 2)) / 2: one approximate instruction, at most 2^-12 off (absolute). An
/// exponential and a reciprocal took 1 % of the kernel more.
__device__ __forceinline__ float gated(float gate, float up) {
  float tangent;
  asm("tanh.approx.f32 %0, %1;" : "=f"(tangent) : "f"(0.5F * gate));
  return gate * fmaf(0.5F, tangent, 0.5F) * up;
}

/// silu(gate) * up of half of a warpgroup's rows.
template <Term kTerm>
class StoreGated {
 public:
  __device__ StoreGated(const GatedKernel& p, const Shared<GatedTile>& shared, int warpgroup)
      : p_(p), terms_(shared.terms(warpgroup)), warpgroup_(warpgroup), thread_(static_cast<int>(threadIdx.x) % 128) {}

  __device__ __forceinline__ void read(const Place& place, int half) {
    if constexpr (kTerm == Term::kScale) row_scales_ = read_row_scales(p_.product, first_row(place, warpgroup_, half));
    if (kTerm == Term::kNone || half > 0) return;  // the columns are the same
    const int col = place.tile_col * kOutCols + thread_;
    const bool is_inside = thread_ < kOutCols && col < p_.cols;
    gate_term_ = is_inside ? __ldg(p_.gate_terms + col) : 0;
    up_term_ = is_inside ? __ldg(p_.up_terms + col) : 0;
  }

  __device__ __forceinline__ void store(const Place& place, int half, const GatedTile::Sums& d) const {
    if (kTerm != Term::kNone && half == 0)
      share(warpgroup_, [&] {
        if (thread_ >= kOutCols) return;
        terms_[thread_] = gate_term_;
        terms_[kOutCols + thread_] = up_term_;
      });
    const int row = first_row(place, warpgroup_, half);
    const int quad = thread_ % 4;
#pragma unroll
    for (int four = 0; four < kOutCols / 32; ++four) {
      const int col = place.tile_col * kOutCols + four * 32 + quad * 8;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = 4 * four + i;
          const float* x = d + 4 * j + 2 * r;
          pairs[i] = gated_pair(x, x + kOutCols / 2, 8 * j + 2 * quad, row_scales_.of[r]);
        }
        const uint4 eight = gather_group(pairs);
        if (row + 8 * r < p_.product.rows && col < p_.cols)
          *reinterpret_cast<uint4*>(p_.out + (row + 8 * r) * p_.out_stride + col) = eight;
      }
    }
  }

 private:
  __device__ __forceinline__ std::uint32_t gated_pair(const float* gate, const float* up, int col, float by) const {
    float2 g{0, 0};
    float2 u{0, 0};
    if constexpr (kTerm != Term::kNone) {
      g = *reinterpret_cast<const float2*>(terms_ + col);
      u = *reinterpret_cast<const float2*>(terms_ + kOutCols + col);
    }
    return pack_bf16(gated(finished(gate[0], by, g.x), finished(up[0], by, u.x)),
                     gated(finished(gate[1], by, g.y), finished(up[1], by, u.y)));
  }

  /// What an accumulator stands for.
  __device__ __forceinline__ static float finished(float sum, float row_scale, float term) {
    if constexpr (kTerm == Term::kScale) return sum * row_scale * term;
    return kTerm == Term::kBias ? sum + term : sum;
  }

  const GatedKernel& p_;
  float* terms_;
  int warpgroup_, thread_;
  RowScales row_scales_;
  float gate_term_ = 0, up_term_ = 0;  ///< this thread's column of the tile
};

/// 2 * 2 * rows in cols FLOPs; what a tile and a step take stands in product_sm90.cuh. Writes 2 bytes an element of
/// out. Measured on one H200 at its power limit, against the two products alone on cuBLASLt: 32,864 x 3,584 x 18,944
/// bf16 13.3 ms (13.2), fp8 6.7 (6.8), 24,576 x 1,280 x 3,424 with biases 0.66 (0.69).
template <Term kTerm>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gated_kernel(const __grid_constant__ GatedKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  run<GatedTile, kTerm == Term::kScale, StoreGated<kTerm>>(p, GatedWeights{p}, raw);
}

}  // namespace

bool gated_in_one(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t out) {
  return out % 8 == 0 && is_worth_own<GatedTile>(context, rows, in, ceil_div(out, kCluster * kOutCols));
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
  const GatedKernel p{.product = make_product(x, ceil_div(out.cols, kCluster * kOutCols), product.x_scales),
                      .gate = map_of(gate, kOutCols),
                      .up = map_of(up, kOutCols),
                      .out = static_cast<std::uint16_t*>(out.data),
                      .out_stride = out.stride,
                      .cols = static_cast<int>(out.cols),
                      .gate_terms = is_fp8 ? product.gate.scales : product.gate.bias,
                      .up_terms = is_fp8 ? product.up.scales : product.up.bias};
  constexpr auto kName = "gated_linear_sm90";
  if (is_fp8) return launch<GatedTile, gated_kernel<Term::kScale>>(context, p, kName);
  if (p.gate_terms != nullptr) return launch<GatedTile, gated_kernel<Term::kBias>>(context, p, kName);
  launch<GatedTile, gated_kernel<Term::kNone>>(context, p, kName);
}

}  // namespace purekv::cuda
