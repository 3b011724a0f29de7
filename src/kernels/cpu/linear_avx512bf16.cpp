#include "kernels/cpu/linear_pairs.h"
#include "kernels/cpu/linear_stream.h"

namespace purekv {
namespace {

void pack_x_bf16(const InputRows& x, const DepthSlice& slice, void* out) { pack_x_pairs(x, slice, kTileRows, out); }

template <int R>
inline void multiply_pairs_at(const LinearBlock& block, std::int64_t row, std::int64_t col, const std::int32_t* w) {
  const auto* x = static_cast<const unsigned char*>(block.x) + row * kPairDepth * 2;
  __m512 sums[R][kVectors] = {};
  for (std::int64_t pair = 0; pair < (block.depth + 1) / 2; ++pair) {
    __m512i weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_loadu_si512(w + pair * kTileCols + v * kLanes);
    for (int r = 0; r < R; ++r) {
      std::int32_t both;
      std::memcpy(&both, x + (r * kPairDepth + 2 * pair) * 2, sizeof both);
      const auto input = bits_as<__m512bh>(_mm512_set1_epi32(both));
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], input, bits_as<__m512bh>(weights[v]));
    }
  }
  Vec tile[R][kVectors];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kVectors; ++v) tile[r][v] = bits_as<Vec>(sums[r][v]);
  write_tile<R>(block, row, col, tile);
}

template <int R>
inline void multiply_pairs_rest(const LinearBlock& block, std::int64_t row, std::int64_t col, const std::int32_t* w) {
  if constexpr (R > 0) {
    if (block.rows - row == R) return multiply_pairs_at<R>(block, row, col, w);
    multiply_pairs_rest<R - 1>(block, row, col, w);
  }
}

void multiply_pairs(const LinearBlock& block) {
  const auto* w = static_cast<const std::int32_t*>(block.weight);
  for (std::int64_t col = 0; col < block.cols; col += kTileCols, w += kPairPanel) {
    std::int64_t row = 0;
    for (; row + kTileRows <= block.rows; row += kTileRows) multiply_pairs_at<kTileRows>(block, row, col, w);
    multiply_pairs_rest<kTileRows - 1>(block, row, col, w);
  }
}

}  // namespace

const LinearIsa kLinearAvx512Bf16 = {.name = "avx512bf16",
                                     .tile_rows = kTileRows,
                                     .tile_cols = kTileCols,
                                     .depth = kPairDepth,
                                     .element = sizeof(std::uint16_t),
                                     .pack_x = pack_x_bf16,
                                     .pack_weight = pack_weight_pairs,
                                     .multiply = multiply_pairs,
                                     .stream = stream};

}  // namespace purekv
