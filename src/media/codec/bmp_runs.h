#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "media/clip_plan.h"

namespace purekv {

/// Unpacks a bmp file's run lengths (RLE8, or RLE4 where `nibbles`) to one palette index a byte, [height, width] in
/// the file's row order. Pixels that no run names are 0, as in Pillow; data that ends early leaves the rest so.
std::vector<std::uint8_t> unpack_bmp_runs(std::span<const std::uint8_t> data, FrameSize size, bool nibbles);

}  // namespace purekv
