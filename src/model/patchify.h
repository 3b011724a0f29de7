#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"
#include "model/config.h"

namespace purekv {

/// One temporal slice: `temporal_patch` frames, uint8 RGB [height, width, 3] each.
struct PatchifyParams {
  std::span<const std::uint8_t* const> frames;  ///< [temporal_patch]
  std::int64_t height = 0, width = 0;           ///< pixels, multiples of patch * merge
  MatrixView out;                               ///< [grid_h * grid_w, patch_values] float32, host memory
  int threads = 1;
};

/// Normalised pixels in the tower's layout (docs/model.md): rows in merge-block order, columns
/// (channel, frame, y, x), the flattening of the patch convolution's weight.
void patchify(const PreprocessConfig& config, const PatchifyParams& params);

}  // namespace purekv
