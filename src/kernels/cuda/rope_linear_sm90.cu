#include "kernels/cuda/rope_linear_sm90.h"

#include "base/fail.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product_sm90.cuh"

/// A layer's q, k, v projection with its bias, rotation and the stores to where attention reads them. Apart, rotation
/// reads and writes the whole product once more: 0.7 % of a prefill's time.
namespace purekv::cuda {
namespace {

using namespace products;

/// Whole heads, so that a dim and its partner meet, and few enough columns that a half's angles wait in registers.
using RopeTile = Tile<128, 2 * 128>;

struct RopeKernel {
  Product product;
  CUtensorMap w;
  std::uint16_t *q, *keys, *values;  ///< bf16 [rows][heads * head_dim], [kv_heads][rows][head_dim]
  std::int64_t q_stride, row_stride, head_stride;
  int heads, kv_heads;
  const float *scales, *bias;  ///< [cols]; scales of fp8 weights; no bias: null
  const float *cos, *sin;      ///< [rows, head_dim / 2]
};

struct RopeWeights {
  static constexpr int kBoxes = 1;
  const RopeKernel& p;
  __device__ const CUtensorMap* map(int) const { return &p.w; }
  __device__ static int row(int tile_col, int) { return tile_col * RopeTile::kCols; }
};

/// cos and sin of this thread's two rows at the dims that it holds, below head_dim / 2.
template <int D>
struct Angles {
  float2 cos[2][D / 16], sin[2][D / 16];

  __device__ __forceinline__ void read(const RopeKernel& p, int row) {
    const int dim = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + 8 * r >= p.product.rows) continue;
      const std::int64_t at = static_cast<std::int64_t>(row + 8 * r) * (D / 2) + dim;
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        cos[r][j] = __ldg(reinterpret_cast<const float2*>(p.cos + at + 8 * j));
        sin[r][j] = __ldg(reinterpret_cast<const float2*>(p.sin + at + 8 * j));
      }
    }
  }
};

/// Half of a warpgroup's rows, after their products: scaled, with their bias, rotated, to where they belong.
template <bool kFp8, int D>
class StoreHeads {
 public:
  __device__ StoreHeads(const RopeKernel& p, const Shared<RopeTile>& shared, int warpgroup)
      : p_(p), terms_(shared.terms(warpgroup)), warpgroup_(warpgroup), thread_(static_cast<int>(threadIdx.x) % 128) {}

  __device__ __forceinline__ void read(const Place& place, int half) {
    const int row = first_row(place, warpgroup_, half);
    if constexpr (kFp8) row_scales_ = read_row_scales(p_.product, row);
    const int first = place.tile_col * RopeTile::kCols;
    if (first / D < p_.heads + p_.kv_heads) angles_.read(p_, row);
    if (half > 0) return;  // the columns are the same
    const int col = first + thread_;
    const bool is_inside = col < (p_.heads + 2 * p_.kv_heads) * D;
    bias_ = is_inside && p_.bias != nullptr ? __ldg(p_.bias + col) : 0;
    if constexpr (kFp8) scale_ = is_inside ? __ldg(p_.scales + col) : 1;
  }

  __device__ __forceinline__ void store(const Place& place, int half, const RopeTile::Sums& d) const {
    if (half == 0)
      share(warpgroup_, [&] {
        terms_[thread_] = bias_;
        if constexpr (kFp8) terms_[RopeTile::kCols + thread_] = scale_;
      });
    const int row = first_row(place, warpgroup_, half);
#pragma unroll
    for (int n = 0; n < RopeTile::kCols / D; ++n) {
      const int head = place.tile_col * (RopeTile::kCols / D) + n;
      const bool turns = head < p_.heads + p_.kv_heads;
#pragma unroll
      for (int first = 0; first < D / 16; first += 4) {  // groups of eight columns
        store_groups(head, row, first, d + n * (D / 2), terms_ + n * D, turns);
      }
    }
  }

 private:
  /// Four groups of eight dims from `first` on, and their partners, of this thread's two rows.
  __device__ __forceinline__ void store_groups(int head, int row, int first, const float* d, const float* terms,
                                               bool turns) const {
    std::uint32_t low[2][4];
    std::uint32_t high[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int j = first + i;
        float2 x = complete(d + 4 * j + 2 * r, terms + 8 * j, r);
        float2 y = complete(d + 4 * (j + D / 16) + 2 * r, terms + 8 * j + D / 2, r);
        if (turns) turn(x, y, angles_.cos[r][j], angles_.sin[r][j]);
        low[r][i] = pack_bf16(x.x, x.y);
        high[r][i] = pack_bf16(y.x, y.y);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 eight = gather_group(low[r]);
      const uint4 partners = gather_group(high[r]);
      if (row + 8 * r >= p_.product.rows || head >= p_.heads + 2 * p_.kv_heads) continue;
      std::uint16_t* to = place_of(head, row + 8 * r) + 8 * (first + thread_ % 4);
      *reinterpret_cast<uint4*>(to) = eight;
      *reinterpret_cast<uint4*>(to + D / 2) = partners;
    }
  }

  __device__ __forceinline__ float2 complete(const float* x, const float* terms, int r) const {
    const float2 bias = *reinterpret_cast<const float2*>(terms + 2 * (thread_ % 4));
    if constexpr (!kFp8) return {x[0] + bias.x, x[1] + bias.y};
    const float2 scale = *reinterpret_cast<const float2*>(terms + RopeTile::kCols + 2 * (thread_ % 4));
    const float by = row_scales_.of[r];
    return {fmaf(x[0] * by, scale.x, bias.x), fmaf(x[1] * by, scale.y, bias.y)};
  }

  __device__ __forceinline__ static void turn(float2& low, float2& high, float2 cos, float2 sin) {
    const float2 x = low;
    low = {x.x * cos.x - high.x * sin.x, x.y * cos.y - high.y * sin.y};
    high = {high.x * cos.x + x.x * sin.x, high.y * cos.y + x.y * sin.y};
  }

  __device__ __forceinline__ std::uint16_t* place_of(int head, int row) const {
    if (head < p_.heads) return p_.q + row * p_.q_stride + head * D;
    const int kv_head = head - p_.heads;
    const bool is_key = kv_head < p_.kv_heads;
    return (is_key ? p_.keys : p_.values) + (is_key ? kv_head : kv_head - p_.kv_heads) * p_.head_stride +
           row * p_.row_stride;
  }

  const RopeKernel& p_;
  float* terms_;
  int warpgroup_, thread_;
  Angles<D> angles_;
  RowScales row_scales_;
  float bias_ = 0, scale_ = 1;  ///< of this thread's column of the tile
};

/// 2 * rows in cols FLOPs; what a tile and a step take stands in product_sm90.cuh. Writes 2 bytes an element of q, k
/// and v; reads 4 * head_dim bytes of angles a row and tile that turns, mostly from the second-level cache. Measured on
/// one H200 at its power limit, against cuBLASLt and a rotation of its own: 32,864 x 3,584, 28/4 heads of 128,
/// bf16 1.74 ms (1.78), fp8 0.97 (0.98).
template <bool kFp8, int D>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    rope_kernel(const __grid_constant__ RopeKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  run<RopeTile, kFp8, StoreHeads<kFp8, D>>(p, RopeWeights{p}, raw);
}

}  // namespace

bool rope_in_one(const Context& context, const HeadShape& shape, std::int64_t rows, std::int64_t in) {
  if (shape.head_dim != 64 && shape.head_dim != 128) return false;
  return is_worth_own<RopeTile>(context, rows, in, ceil_div(shape.qkv_cols(), kCluster * RopeTile::kCols));
}

bool rope_sm90_takes(const Context& context, const RopeProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& w = product.w.weight;
  const RopeSplitParams& to = product.to;
  if (!rope_in_one(context, to.shape, x.rows, x.cols)) return false;
  if (x.dtype != w.dtype || (x.dtype != DType::kBF16 && x.dtype != DType::kFp8)) return false;
  if (to.q.dtype != DType::kBF16 || to.kv_dtype != DType::kBF16) return false;
  if (to.shape.heads > 0 && !is_aligned(to.q)) return false;
  if (to.shape.kv_heads > 0 &&
      (!is_box_aligned(to.keys) || !is_box_aligned(to.values) || to.head_stride % 8 != 0 || to.row_stride % 8 != 0))
    return false;
  return is_aligned(x) && is_aligned(w) && is_box_aligned(to.cos) && is_box_aligned(to.sin);
}

void rope_sm90(const Context& context, const RopeProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& w = product.w.weight;
  const RopeSplitParams& to = product.to;
  const HeadShape& shape = to.shape;
  const bool is_fp8 = x.dtype == DType::kFp8;
  PUREKV_ASSERT(x.cols == w.cols && w.rows == shape.qkv_cols() && to.q.rows == x.rows);
  PUREKV_ASSERT(!is_fp8 || (product.x_scales != nullptr && product.w.scales != nullptr));
  const RopeKernel p{.product = make_product(x, ceil_div(w.rows, kCluster * RopeTile::kCols), product.x_scales),
                     .w = map_of(w, RopeTile::kCols),
                     .q = static_cast<std::uint16_t*>(to.q.data),
                     .keys = static_cast<std::uint16_t*>(to.keys),
                     .values = static_cast<std::uint16_t*>(to.values),
                     .q_stride = to.q.stride,
                     .row_stride = to.row_stride,
                     .head_stride = to.head_stride,
                     .heads = static_cast<int>(shape.heads),
                     .kv_heads = static_cast<int>(shape.kv_heads),
                     .scales = is_fp8 ? product.w.scales : nullptr,
                     .bias = product.w.bias,
                     .cos = to.cos,
                     .sin = to.sin};
  constexpr auto kName = "rope_linear_sm90";
  if (is_fp8 && shape.head_dim == 64) return launch<RopeTile, rope_kernel<true, 64>>(context, p, kName);
  if (is_fp8) return launch<RopeTile, rope_kernel<true, 128>>(context, p, kName);
  if (shape.head_dim == 64) return launch<RopeTile, rope_kernel<false, 64>>(context, p, kName);
  launch<RopeTile, rope_kernel<false, 128>>(context, p, kName);
}

}  // namespace purekv::cuda
