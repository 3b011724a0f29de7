#include "kernels/cpu/linear_pairs.h"
#include "kernels/cpu/linear_stream.h"

namespace purekv {
namespace {

constexpr int kSide = 16;            ///< rows of a tile register, and its 32-bit columns
constexpr int kAmxRows = 2 * kSide;  ///< 2 x 2 accumulators
constexpr int kTileBytes = 64;       ///< bytes of a tile register's row
constexpr int kTileRegisters = 8;

/// What ldtilecfg reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// All tile registers at their full size for as long as it lives.
class TileScope {
 public:
  TileScope() {
    TileConfig config;
    for (int i = 0; i < kTileRegisters; ++i) {
      config.row_bytes[i] = kTileBytes;
      config.rows[i] = kSide;
    }
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

void pack_x_amx(const InputRows& x, const DepthSlice& slice, void* out) { pack_x_pairs(x, slice, kAmxRows, out); }

/// sums [kAmxRows][kTileCols] = one row tile times one panel.
inline void multiply_tile_registers(const std::uint16_t* x, const std::int32_t* w, std::int64_t depth, float* sums) {
  constexpr std::int64_t kInputStride = kPairDepth * 2;
  constexpr std::int64_t kWeightStride = kTileCols * 4;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < depth; k += kPairStep) {
    const std::int32_t* weight = w + k / 2 * kTileCols;
    _tile_loadd(4, x + k, kInputStride);
    _tile_loadd(6, weight, kWeightStride);
    _tile_loadd(7, weight + kSide, kWeightStride);
    _tile_loadd(5, x + kSide * kPairDepth + k, kInputStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, kWeightStride);
  _tile_stored(1, sums + kSide, kWeightStride);
  _tile_stored(2, sums + kSide * kTileCols, kWeightStride);
  _tile_stored(3, sums + kSide * kTileCols + kSide, kWeightStride);
}

void multiply_amx(const LinearBlock& block) {
  const TileScope scope;
  alignas(64) float sums[kAmxRows * kTileCols];
  const auto* w = static_cast<const std::int32_t*>(block.weight);
  for (std::int64_t col = 0; col < block.cols; col += kTileCols, w += kPairPanel)
    for (std::int64_t row = 0; row < block.rows; row += kAmxRows) {
      multiply_tile_registers(static_cast<const std::uint16_t*>(block.x) + row * kPairDepth, w, block.depth, sums);
      const std::int64_t rows = block.rows - row < kAmxRows ? block.rows - row : kAmxRows;
      for (std::int64_t r = 0; r < rows; ++r) {
        Vec line[1][kVectors];
        for (int v = 0; v < kVectors; ++v) line[0][v] = load(sums + r * kTileCols + v * kLanes);
        write_tile<1>(block, row + r, col, line);
      }
    }
}

}  // namespace

const LinearIsa kLinearAmx = {.name = "amx",
                              .tile_rows = kAmxRows,
                              .tile_cols = kTileCols,
                              .depth = kPairDepth,
                              .element = sizeof(std::uint16_t),
                              .pack_x = pack_x_amx,
                              .pack_weight = pack_weight_pairs,
                              .multiply = multiply_amx,
                              .stream = stream};

}  // namespace purekv
