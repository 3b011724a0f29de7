#include "model/vision_tower.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/patchify.h"
#include "model/pixel_lookup.h"

namespace purekv {
namespace {

VisionConfig with_window(std::int64_t window) {
  VisionConfig config;
  config.window = window;
  return config;
}

TEST(WindowOrder, RaggedWindowsOfTheSpecification) {
  const WindowOrder order = make_window_order(with_window(112), 12, 20);
  const std::vector<std::int32_t> expected = {0,  1,  2,  3,  10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32,
                                              33, 4,  5,  6,  7,  14, 15, 16, 17, 24, 25, 26, 27, 34, 35,
                                              36, 37, 8,  9,  18, 19, 28, 29, 38, 39, 40, 41, 42, 43, 50,
                                              51, 52, 53, 44, 45, 46, 47, 54, 55, 56, 57, 48, 49, 58, 59};
  EXPECT_EQ(order.cells, expected);
  EXPECT_EQ(order.starts, (std::vector<std::int32_t>{0, 64, 128, 160, 192, 224, 240}));
}

TEST(WindowOrder, OneSliceOfTheTinyGrid) {
  const WindowOrder order = make_window_order(with_window(56), 4, 6);
  EXPECT_EQ(order.cells, (std::vector<std::int32_t>{0, 1, 3, 4, 2, 5}));
  EXPECT_EQ(order.starts, (std::vector<std::int32_t>{0, 16, 24}));
}

TEST(WindowOrder, EveryCellOnceAtAnySize) {
  for (std::int64_t h = 2; h <= 14; h += 2)
    for (std::int64_t w = 2; w <= 14; w += 2) {
      std::vector<std::int32_t> cells = make_window_order(with_window(112), h, w).cells;
      std::sort(cells.begin(), cells.end());
      std::vector<std::int32_t> all(static_cast<std::size_t>(h * w / 4));
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(cells, all) << h << " x " << w;
    }
}

TEST(Patchify, RowsAndColumnsFollowTheConvolution) {
  const std::int64_t height = 56;
  const std::int64_t width = 28;
  std::vector<std::uint8_t> a(static_cast<std::size_t>(height * width * 3));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<std::uint8_t>(i * 7 % 256);
  std::vector<std::uint8_t> b(a.rbegin(), a.rend());
  const std::uint8_t* const frames[] = {a.data(), b.data()};
  std::vector<std::uint8_t> slice = a;
  slice.insert(slice.end(), b.begin(), b.end());
  const PreprocessConfig config;
  const std::vector<float> lookup = make_pixel_lookup(config);
  std::vector<float> out(8 * 1176, -1e30F);
  patchify({.threads = 2}, {.frames = slice.data(),
                            .temporal = 2,
                            .height = height,
                            .width = width,
                            .patch = 14,
                            .merge = 2,
                            .lookup = lookup.data(),
                            .out = {out.data(), DType::kF32, 8, 1176, 1176}});
  for (std::int64_t p = 0; p < 8; ++p)
    for (std::int64_t e = 0; e < 1176; ++e) {
      const std::int64_t c = e / 392;
      const std::int64_t t = e / 196 % 2;
      const std::int64_t y = p / 4 * 28 + p % 4 / 2 * 14 + e / 14 % 14;
      const std::int64_t x = p % 2 * 14 + e % 14;
      const double pixel = frames[static_cast<std::size_t>(t)][(y * width + x) * 3 + c];
      const auto channel = static_cast<std::size_t>(c);
      const double value = (pixel / 255.0 - config.mean[channel]) / config.std[channel];
      ASSERT_NEAR(out[static_cast<std::size_t>(p * 1176 + e)], value, 1e-5) << p << ' ' << e;
    }
}

}  // namespace
}  // namespace purekv
