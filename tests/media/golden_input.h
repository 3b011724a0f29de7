#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "media/clip_plan.h"

namespace purekv {

// What tools/make_media_goldens.py generates too: a change here is a change there.

/// SplitMix64.
class GoldenRandom {
 public:
  explicit GoldenRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(limit));
  }

 private:
  std::uint64_t state_;
};

struct GoldenPicture {
  FrameSize size, resized;
  std::vector<std::uint8_t> rgb;
};

inline GoldenPicture golden_picture(GoldenRandom& random) {
  GoldenPicture picture;
  for (int* side : {&picture.size.height, &picture.size.width}) *side = static_cast<int>(1 + random.below(40));
  for (int* side : {&picture.resized.height, &picture.resized.width}) *side = static_cast<int>(2 + random.below(40));
  const std::int64_t block = 1 + random.below(6);
  const std::int64_t width = picture.size.width;
  picture.rgb.resize(static_cast<std::size_t>(picture.size.height * width * 3));
  for (std::int64_t y = 0; y < picture.size.height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (std::int64_t c = 0; c < 3; ++c) {
        const bool inside = y % block != 0 || x % block != 0;
        const auto from = static_cast<std::size_t>(((y - y % block) * width + x - x % block) * 3 + c);
        picture.rgb[static_cast<std::size_t>((y * width + x) * 3 + c)] =
            inside ? picture.rgb[from] : static_cast<std::uint8_t>(random.below(256));
      }
  return picture;
}

inline std::string golden_bytes(const std::string& name) {
  std::ifstream in(std::string(PUREKV_SOURCE_DIR) + "/tests/golden/media/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace purekv
