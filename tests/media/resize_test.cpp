#include "media/resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "media/golden_input.h"

namespace purekv {
namespace {

constexpr int kPictures = 50;

/// The pictures of one golden file, in order: sizes are checked, pixels are returned.
class GoldenPixels {
 public:
  explicit GoldenPixels(const std::string& name) : bytes_(golden_bytes(name)) {}
  std::vector<std::uint8_t> next(const GoldenPicture& picture) {
    const int sizes[4] = {picture.size.height, picture.size.width, picture.resized.height, picture.resized.width};
    for (const int size : sizes) {
      std::uint16_t stored = 0;
      std::memcpy(&stored, bytes_.data() + at_, sizeof stored);
      at_ += sizeof stored;
      EXPECT_EQ(size, stored);
    }
    const auto count = static_cast<std::size_t>(picture.resized.height * picture.resized.width * 3);
    at_ += count;
    const auto* end = reinterpret_cast<const std::uint8_t*>(bytes_.data()) + at_;
    return {end - count, end};
  }
  [[nodiscard]] bool done() const { return at_ == bytes_.size(); }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

int largest_difference(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  if (a.size() != b.size()) return 256;
  int most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

std::vector<std::uint8_t> resize_frame(const GoldenPicture& picture) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(picture.resized.height * picture.resized.width * 3), 0xA5);
  FrameResizer(picture.size, picture.resized).run(picture.rgb.data(), out.data());
  return out;
}

TEST(Resize, FramesAreTorchsWithinOneLevel) {
  GoldenRandom random(2);
  GoldenPixels golden("torch.bin");
  for (int i = 0; i < kPictures; ++i) {
    const GoldenPicture picture = golden_picture(random);
    EXPECT_LE(largest_difference(resize_frame(picture), golden.next(picture)), 1) << "picture " << i;
  }
  EXPECT_TRUE(golden.done());
}

TEST(Resize, ImagesArePillowsExactly) {
  GoldenRandom random(2);
  GoldenPixels golden("pillow.bin");
  for (int i = 0; i < kPictures; ++i) {
    const GoldenPicture picture = golden_picture(random);
    std::vector<std::uint8_t> out = {1, 2, 3};
    resize_image(picture.size, picture.rgb, picture.resized, out);
    EXPECT_EQ(out, golden.next(picture)) << "picture " << i;
  }
  EXPECT_TRUE(golden.done());
}

TEST(Resize, KeepsAPictureOfTheRightSize) {
  GoldenRandom random(3);
  GoldenPicture picture = golden_picture(random);
  picture.resized = picture.size;
  EXPECT_EQ(resize_frame(picture), picture.rgb);
  std::vector<std::uint8_t> out;
  resize_image(picture.size, picture.rgb, picture.size, out);
  EXPECT_EQ(out, picture.rgb);
}

TEST(Resize, KeepsAFlatColour) {
  for (const FrameSize to : {FrameSize{1, 1}, FrameSize{28, 28}, FrameSize{3, 90}}) {
    const GoldenPicture picture{{7, 9}, to, std::vector<std::uint8_t>(7 * 9 * 3, 201)};
    const std::vector<std::uint8_t> flat(static_cast<std::size_t>(to.height * to.width * 3), 201);
    EXPECT_EQ(resize_frame(picture), flat);
    std::vector<std::uint8_t> out;
    resize_image(picture.size, picture.rgb, to, out);
    EXPECT_EQ(out, flat);
  }
}

TEST(Resize, TapsStayWithinTheInputAndSumToOne) {
  for (int in = 1; in < 40; ++in)
    for (int out = 1; out < 40; ++out) {
      const CubicTaps taps = cubic_taps(in, out);
      for (std::size_t i = 0; i < static_cast<std::size_t>(out); ++i) {
        ASSERT_GE(taps.first[i], 0);
        ASSERT_GE(taps.count[i], 1);
        ASSERT_LE(taps.count[i], taps.taps);
        ASSERT_LE(taps.first[i] + taps.count[i], in);
        double sum = 0;
        for (int k = 0; k < taps.count[i]; ++k)
          sum += taps.weight[i * static_cast<std::size_t>(taps.taps) + static_cast<std::size_t>(k)];
        ASSERT_NEAR(sum, 1.0, 1e-12);
      }
    }
}

}  // namespace
}  // namespace purekv
