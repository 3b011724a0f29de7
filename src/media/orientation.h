#pragma once

#include <cstdint>
#include <vector>

#include "media/clip_plan.h"

namespace purekv {

/// How stored pixels become shown ones: rows and columns change places first, then left and right, then top and
/// bottom. Its eight values are EXIF's orientations and the right angles of a display matrix.
struct Orientation {
  bool transpose = false, flip_x = false, flip_y = false;
  bool operator==(const Orientation&) const = default;
};

/// EXIF's tag 0x0112; anything but 1 to 8 changes nothing.
Orientation exif_orientation(int value);

[[nodiscard]] FrameSize oriented(FrameSize size, Orientation orientation);

/// Turns uint8 RGB [size.height, size.width, 3] in place.
void orient(FrameSize size, Orientation orientation, std::vector<std::uint8_t>& rgb);

}  // namespace purekv
