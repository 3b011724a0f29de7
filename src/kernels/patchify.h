#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Frames of some temporal slices and how they are cut.
struct PatchifyParams {
  const std::uint8_t* frames = nullptr;  ///< [slices, temporal, height, width, 3] RGB
  std::int64_t temporal = 0;             ///< frames a slice
  std::int64_t height = 0, width = 0;    ///< pixels, multiples of patch * merge
  std::int64_t patch = 0, merge = 0;
  const float* lookup = nullptr;  ///< [3, 256] the normalised value of each byte of each channel
  MatrixView out;                 ///< [slices * height / patch * width / patch, 3 * temporal * patch^2] float32
};

/// Normalised pixels in the tower's layout (docs/model.md): rows slice by slice in merge-block order, columns (channel,
/// frame, y, x), the flattening of the patch convolution's weight. Reads a byte and writes four a value.
void patchify(const Context& context, const PatchifyParams& params);

}  // namespace purekv
