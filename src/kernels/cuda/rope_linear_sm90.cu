#include "kernels/cuda/rope_linear_sm90.h"

#include <cuda_bf16.h>

#include "base/fail.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product_sm90.cuh"

/// A layer's q, k, v projection with its bias, rotation and the stores to where attention reads them. Apart, rotation
/// reads and writes the whole product once more: 0.7 % of a prefill's time.
namespace purekv::cuda {
namespace {

using namespace products;

constexpr int kTileCols = 2 * kHalfCols;
/// Steps before a tile's last product at which its rows' angles are asked for: the way to memory takes about one step.
constexpr int kAhead = 3;

struct RopeKernel {
  Product product;
  CUtensorMap q{}, keys{}, values{};  ///< [rows, heads * head_dim], [kv_heads][rows][head_dim]
  int heads, kv_heads;
  const float *scales, *bias;  ///< [cols]; scales of fp8 weights; no bias: null
  const float *cos, *sin;      ///< [rows, head_dim / 2]
  [[nodiscard]] __host__ __device__ int all_heads() const { return heads + 2 * kv_heads; }
};

/// Of a thread's columns in the two halves of a tile.
struct Terms {
  float scale[2], bias[2];  ///< scales of fp8 weights
};

/// Read before the products, whose time hides the way to memory.
template <bool kFp8>
__device__ __forceinline__ Terms read_terms(const RopeKernel& p, int first_col, int cols) {
  Terms terms;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int col = first_col + h * kHalfCols + static_cast<int>(threadIdx.x) % 128;
    if constexpr (kFp8) terms.scale[h] = col < cols ? __ldg(p.scales + col) : 1.0F;
    terms.bias[h] = p.bias != nullptr && col < cols ? __ldg(p.bias + col) : 0.0F;
  }
  return terms;
}

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

/// A warpgroup's share of a tile, after its products: half by half through shared memory to the copy engine.
template <bool kFp8, int D>
class Finish {
 public:
  __device__ Finish(const RopeKernel& p, const Shared& shared, const Place& place, int warpgroup)
      : p_(p), shared_(shared), place_(place), warpgroup_(warpgroup), thread_(static_cast<int>(threadIdx.x) % 128) {}

  /// d: 64 x 128 products of half h.
  __device__ __forceinline__ void store(float* d, int h, const Terms& terms, const RowScales& row_scales,
                                        const Angles<D>& angles) const {
    const int first = place_.tile_col * kTileCols + h * kHalfCols;
    float* shared_terms = shared_.terms(warpgroup_);
    if constexpr (kFp8) shared_terms[thread_] = terms.scale[h];
    shared_terms[kHalfCols + thread_] = terms.bias[h];
    sync();
    complete(d, first / D, shared_terms, row_scales, angles);
    if (thread_ == 0) hopper::store_wait_read();
    sync();
    stage(d);
    hopper::proxy_fence();
    sync();
    if (thread_ == 0) send(first);
  }

 private:
  __device__ __forceinline__ void sync() const { hopper::named_sync(1 + warpgroup_, 128); }

  /// Scales and biases a half; rotates its heads that are queries or keys.
  __device__ __forceinline__ void complete(float* d, int first_head, const float* terms, const RowScales& row_scales,
                                           const Angles<D>& angles) const {
#pragma unroll
    for (int head = 0; head < kHalfCols / D; ++head) {
      const bool turns = first_head + head < p_.heads + p_.kv_heads;
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        const int at = head * (D / 8) + j;  // of groups of eight columns; its partner is D / 16 on
        complete(d + 4 * at, terms + 8 * at, row_scales);
        complete(d + 4 * (at + D / 16), terms + 8 * (at + D / 16), row_scales);
        if (turns) turn(d + 4 * at, d + 4 * (at + D / 16), j, angles);
      }
    }
  }

  /// Four accumulators: two columns of two rows.
  __device__ __forceinline__ void complete(float* x, const float* terms, const RowScales& row_scales) const {
    const int col = 2 * (thread_ % 4);
    const float2 bias = *reinterpret_cast<const float2*>(terms + kHalfCols + col);
    float2 scale{1, 1};
    if constexpr (kFp8) scale = *reinterpret_cast<const float2*>(terms + col);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float by = row_scales.of[r];
      x[2 * r] = kFp8 ? fmaf(x[2 * r] * by, scale.x, bias.x) : x[2 * r] + bias.x;
      x[2 * r + 1] = kFp8 ? fmaf(x[2 * r + 1] * by, scale.y, bias.y) : x[2 * r + 1] + bias.y;
    }
  }

  __device__ __forceinline__ static void turn(float* low, float* high, int j, const Angles<D>& angles) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float cos = e == 0 ? angles.cos[r][j].x : angles.cos[r][j].y;
        const float sin = e == 0 ? angles.sin[r][j].x : angles.sin[r][j].y;
        const float x = low[2 * r + e];
        low[2 * r + e] = x * cos - high[2 * r + e] * sin;
        high[2 * r + e] = high[2 * r + e] * cos + x * sin;
      }
  }

  __device__ __forceinline__ void stage(const float* d) const {
    const int lane = thread_ % 32;
    const int to_row = thread_ / 32 * 16 + lane % 16;
    const std::uint32_t line = shared_.out(warpgroup_, 0) + to_row * kLine;
#pragma unroll
    for (int two = 0; two < kHalfCols / 16; ++two) {
      const float* x = d + 8 * two;
      const std::uint32_t words[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                      pack_bf16(x[6], x[7])};
      hopper::store_matrices(line + two / 4 * kChunk + swizzled(two, lane, to_row), words);
    }
  }

  /// One thread. What lies past the rows is not written.
  __device__ void send(int first) const {
    const int row = place_.row + warpgroup_ * 64;
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int col = first + chunk * kChunkCols;
      const std::uint32_t from = shared_.out(warpgroup_, chunk);
      const int kv_head = col / D - p_.heads;
      if (kv_head < 0)
        hopper::store_box(&p_.q, from, col, row, 0);
      else if (kv_head < p_.kv_heads)
        hopper::store_box(&p_.keys, from, col % D, row, kv_head);
      else if (kv_head < 2 * p_.kv_heads)
        hopper::store_box(&p_.values, from, col % D, row, kv_head - p_.kv_heads);
    }
    hopper::store_commit();
  }

  const RopeKernel& p_;
  const Shared& shared_;
  const Place& place_;
  int warpgroup_, thread_;
};

/// 2 * rows in cols FLOPs; what a tile and a step take stands in product_sm90.cuh. Writes 2 bytes an element of q, k
/// and v; reads 4 * head_dim bytes of angles a row and tile that holds queries or keys, mostly from the second-level
/// cache.
template <bool kFp8, int D>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    rope_kernel(const __grid_constant__ RopeKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  run<kFp8, kTileCols>(p.product, raw, [&](const Place& place, Consumer& consumer, float(&d)[128]) {
    const int first = place.tile_col * kTileCols;
    const Terms terms = read_terms<kFp8>(p, first, p.all_heads() * D);
    const RowScales scales = read_row_scales<kFp8>(p.product, place, consumer.warpgroup);
    const int split = max(0, p.product.steps - kAhead);
    consumer.multiply<kFp8>(d, 0, split);
    Angles<D> angles;
    if (first / D < p.heads + p.kv_heads) angles.read(p, first_row(place, consumer.warpgroup));
    consumer.multiply<kFp8>(d, split, p.product.steps);
    const Finish<kFp8, D> finish(p, consumer.shared, place, consumer.warpgroup);
    finish.store(d, 0, terms, scales, angles);
    finish.store(d + 64, 1, terms, scales, angles);
  });
}

template <bool kFp8, int D>
void launch(const Context& context, const RopeKernel& p) {
  static const bool allowed = (allow_shared(rope_kernel<kFp8, D>, kShared), true);
  static_cast<void>(allowed);
  rope_kernel<kFp8, D><<<blocks_of(context, p.product), kThreads, kShared, stream_of(context)>>>(p);
  check_launch("rope_linear_sm90");
}

template <bool kFp8>
void launch(const Context& context, const RopeKernel& p, std::int64_t head_dim) {
  if (head_dim == 64) return launch<kFp8, 64>(context, p);
  launch<kFp8, 128>(context, p);
}

std::int64_t cols_of(const HeadShape& shape) { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }

}  // namespace

bool rope_in_one(const Context& context, const HeadShape& shape, std::int64_t rows, std::int64_t in) {
  if (shape.head_dim != 64 && shape.head_dim != 128) return false;
  return is_worth_own(context, rows, in, ceil_div(cols_of(shape), kTileCols));
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
  PUREKV_ASSERT(x.cols == w.cols && w.rows == cols_of(shape) && to.q.rows == x.rows);
  PUREKV_ASSERT(!is_fp8 || (product.x_scales != nullptr && product.w.scales != nullptr));
  const auto cached = [&](void* data) {
    return make_tensor_map(data, DType::kBF16, shape.head_dim, {x.rows, to.row_stride},
                           {shape.kv_heads, to.head_stride}, 64, 1);
  };
  RopeKernel p{.product = make_product(context, x, w, w, ceil_div(w.rows, kTileCols), product.x_scales),
               .heads = static_cast<int>(shape.heads),
               .kv_heads = static_cast<int>(shape.kv_heads),
               .scales = is_fp8 ? product.w.scales : nullptr,
               .bias = product.w.bias,
               .cos = to.cos,
               .sin = to.sin};
  if (shape.heads > 0) p.q = map_of(to.q, 64);
  if (shape.kv_heads > 0) {
    p.keys = cached(to.keys);
    p.values = cached(to.values);
  }
  if (is_fp8)
    launch<true>(context, p, shape.head_dim);
  else
    launch<false>(context, p, shape.head_dim);
}

}  // namespace purekv::cuda
