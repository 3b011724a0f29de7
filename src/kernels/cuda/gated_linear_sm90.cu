#include "kernels/cuda/gated_linear_sm90.h"

#include <cuda_fp8.h>

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
  void* out;  ///< bf16, or e4m3 with exponents
  std::int64_t out_stride;
  int cols;
  PieceExponents exponents;
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

/// silu(gate) * up of half of a warpgroup's rows, from products and what belongs to rows and columns.
template <Term kTerm>
class GatedHalf {
 public:
  __device__ GatedHalf(const GatedKernel& p, const Shared<GatedTile>& shared, int warpgroup)
      : p_(p), terms_(shared.terms(warpgroup)), warpgroup_(warpgroup), thread_(static_cast<int>(threadIdx.x) % 128) {}

  __device__ __forceinline__ void read(const Place& place, int half) {
    if constexpr (kTerm == Term::kScale) row_scales_ = read_row_scales(p_.product, first_row(place, warpgroup_, half));
    if (kTerm == Term::kNone || half > 0) return;  // the columns are the same
    const int col = place.tile_col * kOutCols + thread_;
    const bool is_inside = thread_ < kOutCols && col < p_.cols;
    gate_term_ = is_inside ? __ldg(p_.gate_terms + col) : 0;
    up_term_ = is_inside ? __ldg(p_.up_terms + col) : 0;
  }

 protected:
  __device__ __forceinline__ void share_terms(int half) const {
    if (kTerm == Term::kNone || half > 0) return;
    share(warpgroup_, [&] {
      if (thread_ >= kOutCols) return;
      terms_[thread_] = gate_term_;
      terms_[kOutCols + thread_] = up_term_;
    });
  }

  /// Of this thread's row r, the pair of columns in group j of eight; `up` is multiplied by a power of two.
  __device__ __forceinline__ float2 pair(const GatedTile::Sums& d, int r, int j, float factor = 1) const {
    const float* gate = d + 4 * j + 2 * r;
    const float* up = gate + kOutCols / 2;
    const int col = 8 * j + 2 * (thread_ % 4);
    float2 g{0, 0};
    float2 u{0, 0};
    if constexpr (kTerm != Term::kNone) {
      g = read_terms(terms_ + col);
      u = read_terms(terms_ + kOutCols + col);
    }
    const float by = row_scales_.of[r];
    return {gated(finished(gate[0], by, g.x), finished(up[0], by * factor, u.x)),
            gated(finished(gate[1], by, g.y), finished(up[1], by * factor, u.y))};
  }

  const GatedKernel& p_;
  float* terms_;
  int warpgroup_, thread_;

 private:
  /// Volatile: kept for the next row, what is read would take registers that there are not.
  __device__ __forceinline__ static float2 read_terms(const float* from) {
    float2 two;
    asm volatile("ld.volatile.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(two.x), "=f"(two.y)
                 : "r"(hopper::shared_address(from)));
    return two;
  }

  /// What an accumulator stands for.
  __device__ __forceinline__ static float finished(float sum, float row_scale, float term) {
    if constexpr (kTerm == Term::kScale) return sum * row_scale * term;
    return kTerm == Term::kBias ? sum + term : sum;
  }

  RowScales row_scales_;
  float gate_term_ = 0, up_term_ = 0;  ///< this thread's column of the tile
};

/// Stores it in bf16.
template <Term kTerm>
class StoreGated : public GatedHalf<kTerm> {
 public:
  using GatedHalf<kTerm>::GatedHalf;

  __device__ __forceinline__ void store(const Place& place, int half, const GatedTile::Sums& d) const {
    this->share_terms(half);
    const GatedKernel& p = this->p_;
    const int row = first_row(place, this->warpgroup_, half);
#pragma unroll
    for (int four = 0; four < kOutCols / 32; ++four) {
      const int col = place.tile_col * kOutCols + four * 32 + this->thread_ % 4 * 8;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 two = this->pair(d, r, 4 * four + i);
          pairs[i] = pack_bf16(two.x, two.y);
        }
        const uint4 eight = gather_group(pairs);
        if (row + 8 * r < p.product.rows && col < p.cols)
          *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(p.out) + (row + 8 * r) * p.out_stride + col) = eight;
      }
    }
  }
};

/// Stores it in e4m3. A row's first 192 columns leave their exponents, of 32 columns each. In the others a warp takes
/// those of its rows for granted, until a value does not fit: then it makes its part of the tile anew, with larger ones
/// for the rows that need them. What becomes of a row depends on its own values alone.
class StoreQuantized : public GatedHalf<Term::kScale> {
 public:
  using GatedHalf<Term::kScale>::GatedHalf;

  __device__ __forceinline__ void read(const Place& place, int half) {
    GatedHalf<Term::kScale>::read(place, half);
    if (is_first()) return;
    const int row = first_row(place, warpgroup_, half);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (row + 8 * r < p_.product.rows)
        least_[r] = max(__ldg(exponent(kPieces - 1, row + 8 * r)), __ldg(exponent(2 * kPieces - 1, row + 8 * r)));
  }

  __device__ __forceinline__ void store(const Place& place, int half, const GatedTile::Sums& d) const {
    share_terms(half);
    const int row = first_row(place, warpgroup_, half);
    if (is_first() || !store_fitting(place, row, d)) store_widened(place, row, d);
  }

 private:
  static constexpr int kPieces = kOutCols / PieceExponents::kCols;
  static_assert(PieceExponents::kFirst == kCluster * kPieces);
  /// Values from 432 on would be 448, which larger ones become too: [216, 432) is where the largest one comes to lie;
  /// in the first columns, whose exponents the others take, so many powers of two below. Far more room costs fractions
  /// below 2^-6, less costs widened rows.
  static constexpr unsigned kCarry = 0x280000;  ///< raises a float32's exponent where its fraction is 432 / 256 or more
  static constexpr int kTop = 8;
  static constexpr int kRoom = 6;
  static constexpr int kLeast = -100;     ///< keeps inverse_of() a finite factor, of rows of zeros too
  static constexpr int kNotFinite = 126;  ///< the exponent of infinity and NaN, above all others
  static constexpr unsigned kLowHalves = 0x5410;
  static constexpr unsigned kHighHalves = 0x7632;

  __device__ __forceinline__ bool is_first() const { return p_.product.first_col == 0; }

  __device__ __forceinline__ std::int8_t* exponent(int piece, int row) const {
    return p_.exponents.of_piece + static_cast<std::int64_t>(piece) * p_.product.rows + row;
  }

  __device__ __forceinline__ static float inverse_of(int exponent) { return __int_as_float((127 - exponent) << 23); }

  __device__ __forceinline__ static std::uint32_t quantized(float2 two) {
    return __nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3);
  }

  /// The high bit of every byte that is 448, which larger values become too, or NaN.
  __device__ __forceinline__ static std::uint32_t most_of(std::uint32_t four) {
    return (four & 0x7F7F7F7FU) + 0x02020202U;
  }

  /// By the exponents of the first columns. False where a value of the warp's may be too large for them.
  __device__ __forceinline__ bool store_fitting(const Place& place, int row, const GatedTile::Sums& d) const {
    static_assert(kOutCols == 96);
    std::uint32_t most = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor = inverse_of(least_[r]);
      // Two groups of eight columns a word, so that a lane of the quad gets 16 columns.
      std::uint32_t sixteens[4];
      std::uint32_t eights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sixteens[i] = quantized(pair(d, r, 2 * i, factor)) | quantized(pair(d, r, 2 * i + 1, factor)) << 16U;
        eights[i] = quantized(pair(d, r, 8 + i, factor));
        most |= most_of(sixteens[i]) | most_of(eights[i]);
      }
      const uint4 both = gather_group(sixteens);
      const uint4 one = gather_group(eights);
      if (row + 8 * r >= p_.product.rows) continue;
      const int col = place.tile_col * kOutCols;
      const int lane = thread_ % 4;
      unsigned char* to = row_of(row + 8 * r) + col;
      if (col + 16 * lane < p_.cols)
        *reinterpret_cast<uint4*>(to + 16 * lane) = {
            __byte_perm(both.x, both.y, kLowHalves), __byte_perm(both.z, both.w, kLowHalves),
            __byte_perm(both.x, both.y, kHighHalves), __byte_perm(both.z, both.w, kHighHalves)};
      if (col + 64 + 8 * lane < p_.cols) store_eight(to + 64 + 8 * lane, one);
    }
    return __all_sync(~0U, (most & 0x80808080U) == 0) != 0;
  }

  /// By exponents that 32 columns of a row need, or larger ones that are known before.
  __device__ __forceinline__ void store_widened(const Place& place, int row, const GatedTile::Sums& d) const {
    const int lane = thread_ % 4;
    int exponents[2] = {is_first() ? kLeast : least_[0], is_first() ? kLeast : least_[1]};
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int number = place.tile_col * kPieces + piece;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float2 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = pair(d, r, 4 * piece + i);
        exponents[r] = max(exponent_of(pairs), exponents[r]);
        const float factor = exponents[r] == kNotFinite ? __int_as_float(0x7FC00000) : inverse_of(exponents[r]);
        std::uint32_t codes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) codes[i] = quantized({pairs[i].x * factor, pairs[i].y * factor});
        const uint4 eight = gather_group(codes);
        const int col = number * PieceExponents::kCols + 8 * lane;
        if (row + 8 * r >= p_.product.rows) continue;
        if (lane == 0) note(number, row + 8 * r, exponents[r], least_[r]);
        if (col < p_.cols) store_eight(row_of(row + 8 * r) + col, eight);
      }
    }
  }

  /// The first columns leave every exponent, the others those above them; and their rows' largest.
  __device__ __forceinline__ void note(int piece, int row, int own, int least) const {
    if (!is_first() && own == least) return;
    *exponent(piece, row) = static_cast<std::int8_t>(own);
    if (!is_first()) atomicMax(p_.exponents.widest + row, own);
  }

  /// Of 32 columns of a row, which four lanes share: above the row's base where store_fitting() would say so.
  __device__ __forceinline__ int exponent_of(const float2 (&pairs)[4]) const {
    unsigned top = 0;
#pragma unroll
    for (const float2 two : pairs)
      top = max(top, max(__float_as_uint(two.x) & 0x7FFFFFFFU, __float_as_uint(two.y) & 0x7FFFFFFFU));
    top = max(top, __shfl_xor_sync(~0U, top, 1));
    top = max(top, __shfl_xor_sync(~0U, top, 2));
    if (top >= 0x7F800000U) return kNotFinite;
    return static_cast<int>((top + kCarry) >> 23U) - 127 - kTop + (is_first() ? kRoom : 0);
  }

  __device__ __forceinline__ unsigned char* row_of(int row) const {
    return static_cast<unsigned char*>(p_.out) + row * p_.out_stride;
  }

  __device__ __forceinline__ static void store_eight(unsigned char* to, const uint4& codes) {
    *reinterpret_cast<uint2*>(to) = {__byte_perm(codes.x, codes.y, kLowHalves),
                                     __byte_perm(codes.z, codes.w, kLowHalves)};
  }

  int least_[2] = {kLeast, kLeast};
};

/// 2 * 2 * rows in cols FLOPs; what a tile and a step take stands in product_sm90.cuh. Writes 2 bytes an element of
/// out, or 1. Measured on one H200 at its power limit, against the two products alone on cuBLASLt: 32,864 x 3,584 x
/// 18,944 bf16 13.3 ms (13.2), fp8 to bf16 6.7 (6.8), 24,576 x 1,280 x 3,424 with biases 0.66 (0.69). Fp8 to e4m3
/// within a prefill: 6.8 ms (32,792 rows).
template <Term kTerm, class Store>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gated_kernel(const __grid_constant__ GatedKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  run<GatedTile, kTerm == Term::kScale, Store>(p, GatedWeights{p}, raw);
}

template <Term kTerm, class Store = StoreGated<kTerm>>
void launch_gated(const Context& context, const GatedKernel& p) {
  launch<GatedTile, gated_kernel<kTerm, Store>>(context, p, "gated_linear_sm90");
}

/// The first tiles of all rows, whose exponents the others read.
void launch_quantized(const Context& context, GatedKernel p) {
  const int tiles = p.product.col_tiles;
  p.product.col_tiles = 1;
  launch_gated<Term::kScale, StoreQuantized>(context, p);
  p.product.first_col = 1;
  p.product.col_tiles = tiles - 1;
  if (tiles > 1) launch_gated<Term::kScale, StoreQuantized>(context, p);
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
  if (product.out.dtype != DType::kBF16 && (product.out.dtype != DType::kFp8 || x.dtype != DType::kFp8)) return false;
  if (product.out.dtype == DType::kFp8 && product.out.cols % 16 != 0) return false;
  return is_aligned(x) && is_aligned(gate) && is_aligned(up) && is_aligned(product.out);
}

std::int64_t gated_sm90_pieces(std::int64_t ffn) {
  return ceil_div(ffn, kCluster * kOutCols) * (kCluster * kOutCols / PieceExponents::kCols);
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
  PUREKV_ASSERT((out.dtype == DType::kFp8) == (product.exponents.of_piece != nullptr));
  const GatedKernel p{.product = make_product(x, ceil_div(out.cols, kCluster * kOutCols), product.x_scales),
                      .gate = map_of(gate, kOutCols),
                      .up = map_of(up, kOutCols),
                      .out = out.data,
                      .out_stride = out.stride,
                      .cols = static_cast<int>(out.cols),
                      .exponents = product.exponents,
                      .gate_terms = is_fp8 ? product.gate.scales : product.gate.bias,
                      .up_terms = is_fp8 ? product.up.scales : product.up.bias};
  if (out.dtype == DType::kFp8) return launch_quantized(context, p);
  if (is_fp8) return launch_gated<Term::kScale>(context, p);
  if (p.gate_terms != nullptr) return launch_gated<Term::kBias>(context, p);
  launch_gated<Term::kNone>(context, p);
}

}  // namespace purekv::cuda
