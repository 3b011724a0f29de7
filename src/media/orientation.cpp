#include "media/orientation.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace purekv {

Orientation exif_orientation(int value) {
  constexpr std::array<Orientation, 8> kByTag = {{{false, false, false},
                                                  {false, true, false},
                                                  {false, true, true},
                                                  {false, false, true},
                                                  {true, false, false},
                                                  {true, true, false},
                                                  {true, true, true},
                                                  {true, false, true}}};
  return value >= 1 && value <= 8 ? kByTag[static_cast<std::size_t>(value - 1)] : Orientation{};
}

FrameSize oriented(FrameSize size, Orientation orientation) {
  return orientation.transpose ? FrameSize{size.width, size.height} : size;
}

void orient(FrameSize size, Orientation orientation, std::vector<std::uint8_t>& rgb) {
  if (orientation == Orientation{}) return;
  const FrameSize shown = oriented(size, orientation);
  std::vector<std::uint8_t> turned(rgb.size());
  std::uint8_t* out = turned.data();
  for (int y = 0; y < shown.height; ++y)
    for (int x = 0; x < shown.width; ++x) {
      int from_x = orientation.flip_x ? shown.width - 1 - x : x;
      int from_y = orientation.flip_y ? shown.height - 1 - y : y;
      if (orientation.transpose) std::swap(from_x, from_y);
      out = std::copy_n(rgb.data() + (static_cast<std::ptrdiff_t>(from_y) * size.width + from_x) * 3, 3, out);
    }
  rgb = std::move(turned);
}

}  // namespace purekv
