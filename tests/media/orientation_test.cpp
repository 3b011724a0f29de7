#include "media/orientation.h"

#include <gtest/gtest.h>

namespace purekv {
namespace {

/// Pixels numbered by row; only the first channel counts.
std::vector<int> turned(FrameSize size, Orientation orientation) {
  std::vector<std::uint8_t> rgb;
  for (int i = 0; i < size.height * size.width; ++i)
    for (int c = 0; c < 3; ++c) rgb.push_back(static_cast<std::uint8_t>(i + 100 * c));
  orient(size, orientation, rgb);
  std::vector<int> first;
  for (std::size_t i = 0; i < rgb.size(); i += 3) {
    first.push_back(rgb[i]);
    EXPECT_EQ(rgb[i + 2], rgb[i] + 200);
  }
  return first;
}

TEST(Orientation, FollowsExif) {
  // 0 1 2
  // 3 4 5
  const std::vector<std::vector<int>> expected = {{0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {5, 4, 3, 2, 1, 0},
                                                  {3, 4, 5, 0, 1, 2}, {0, 3, 1, 4, 2, 5}, {3, 0, 4, 1, 5, 2},
                                                  {5, 2, 4, 1, 3, 0}, {2, 5, 1, 4, 0, 3}};
  for (int tag = 1; tag <= 8; ++tag)
    EXPECT_EQ(turned({2, 3}, exif_orientation(tag)), expected[static_cast<std::size_t>(tag - 1)]) << tag;
  for (const int tag : {-1, 0, 9, 65'535}) EXPECT_EQ(exif_orientation(tag), Orientation{});
}

TEST(Orientation, SwapsTheSides) {
  for (int tag = 1; tag <= 8; ++tag) {
    const FrameSize size = oriented({2, 3}, exif_orientation(tag));
    EXPECT_EQ(size, tag < 5 ? (FrameSize{2, 3}) : (FrameSize{3, 2}));
  }
}

}  // namespace
}  // namespace purekv
