#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cpu/rows_reference.h"
#include "kernels/rows_variants.h"
#include "support/random.h"

namespace purekv {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr float kEps = 1e-6F;

std::vector<float> reference(const std::vector<float>& x, const std::vector<float>& weight) {
  std::vector<float> out(x.size(), kPoison);
  const auto cols = static_cast<std::int64_t>(weight.size());
  const auto rows = static_cast<std::int64_t>(x.size()) / cols;
  rms_norm_reference({.x = {x.data(), DType::kF32, rows, cols, cols},
                      .weight = weight.data(),
                      .eps = kEps,
                      .out = {out.data(), DType::kF32, rows, cols, cols}});
  return out;
}

void expect_close(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 1e-6F * std::abs(expected[i]) + 1e-9F) << what << " at " << i;
}

TEST(RmsNorm, EveryVariantAtEveryLength) {
  for (const RowsIsa* isa : rows_variants())
    for (const std::int64_t cols : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 896, 3585}) {
      const std::vector<float> x = random_floats(cols, static_cast<unsigned>(cols));
      const std::vector<float> weight = random_floats(cols, static_cast<unsigned>(cols) + 1);
      std::vector<float> out(x.size(), kPoison);
      isa->rms_norm(x.data(), weight.data(), cols, kEps, out.data());
      expect_close(out, reference(x, weight), std::string(isa->name) + " cols " + std::to_string(cols));
    }
}

TEST(RmsNorm, RowsWithStridesInPlaceOnAnyThreads) {
  for (const std::int64_t rows : {1, 2, 33, 700}) {
    const std::int64_t cols = 70;
    const std::vector<float> x = random_floats(rows * cols, static_cast<unsigned>(rows));
    const std::vector<float> weight = random_floats(cols, 5);
    const std::vector<float> expected = reference(x, weight);
    for (const int threads : {1, 2, 3}) {
      // Rows 4 apart in one matrix, written where they were read.
      std::vector<float> wide(static_cast<std::size_t>(rows * (cols + 4)), kPoison);
      for (std::int64_t r = 0; r < rows; ++r) std::copy_n(x.begin() + r * cols, cols, wide.begin() + r * (cols + 4));
      const MatrixView view{wide.data(), DType::kF32, rows, cols, cols + 4};
      rms_norm({.threads = threads}, {.x = view, .weight = weight.data(), .eps = kEps, .out = view});
      std::vector<float> got;
      for (std::int64_t r = 0; r < rows; ++r) {
        got.insert(got.end(), wide.begin() + r * (cols + 4), wide.begin() + r * (cols + 4) + cols);
        for (std::int64_t i = 0; i < 4; ++i)
          EXPECT_TRUE(std::isnan(wide[static_cast<std::size_t>(r * (cols + 4) + cols + i)]));
      }
      expect_close(got, expected, "rows " + std::to_string(rows));
    }
  }
}

TEST(RmsNorm, LargeSmallAndZeroRows) {
  const std::vector<float> weight(100, 2.0F);
  for (const RowsIsa* isa : rows_variants())
    for (const float scale : {0.0F, 1e-12F, 1e-3F, 1e4F, 1e15F}) {
      std::vector<float> x = random_floats(100, 3);
      for (float& value : x) value *= scale;
      std::vector<float> out(100, kPoison);
      isa->rms_norm(x.data(), weight.data(), 100, kEps, out.data());
      expect_close(out, reference(x, weight), std::string(isa->name) + " scale " + std::to_string(scale));
    }
}

TEST(RmsNorm, NoRows) {
  const std::vector<float> weight(3, 1.0F);
  EXPECT_NO_THROW(rms_norm(
      {.threads = 2},
      {.x = {nullptr, DType::kF32, 0, 3, 3}, .weight = weight.data(), .out = {nullptr, DType::kF32, 0, 3, 3}}));
}

}  // namespace
}  // namespace purekv
