#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cpu/rows_reference.h"
#include "kernels/rows_variants.h"
#include "support/random.h"

namespace purekv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Every power of two that matters, points between, both signs, and where exponentials end.
std::vector<float> sweep() {
  std::vector<float> x = {0.0F, -0.0F, 87.0F, -87.0F, 88.0F, -88.0F, 103.0F, -104.0F, 1e30F, -1e30F};
  for (float value = 1e-8F; value < 60; value *= 1.003F) {
    x.push_back(value);
    x.push_back(-value);
  }
  return x;
}

MatrixView one_row(std::vector<float>& x) {
  const auto cols = static_cast<std::int64_t>(x.size());
  return {x.data(), DType::kF32, 1, cols, cols};
}

TEST(Activation, SwigluOfEveryVariantOverTheWholeRange) {
  for (const RowsIsa* isa : rows_variants()) {
    const std::vector<float> x = sweep();
    std::vector<float> up = random_floats(static_cast<std::int64_t>(x.size()), 4);
    std::vector<float> got = x;
    std::vector<float> expected = x;
    isa->swiglu(got.data(), up.data(), static_cast<std::int64_t>(x.size()));
    swiglu_reference(one_row(expected), one_row(up));
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(got[i], expected[i], 5e-7F * std::abs(expected[i]) + 1e-34F) << isa->name << " at " << x[i];
  }
}

TEST(Activation, GeluOfEveryVariantOverTheWholeRange) {
  for (const RowsIsa* isa : rows_variants()) {
    const std::vector<float> x = sweep();
    std::vector<float> got = x;
    std::vector<float> expected = x;
    isa->gelu(got.data(), static_cast<std::int64_t>(x.size()));
    gelu_reference(one_row(expected));
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_NEAR(got[i], expected[i], 2.5e-7F * std::abs(x[i])) << isa->name << " at " << x[i];
      // Far below zero the value itself is small: it is good to a part in 10,000 as long as it is above 1e-15.
      if (std::abs(expected[i]) > 1e-15F) {
        ASSERT_NEAR(got[i], expected[i], 1e-4F * std::abs(expected[i])) << isa->name << " at " << x[i];
      }
    }
  }
}

TEST(Activation, NotFiniteInputsStayVisible) {
  for (const RowsIsa* isa : rows_variants()) {
    std::vector<float> gate = {kInfinity, std::nanf(""), 1.0F};
    const std::vector<float> up = {2.0F, 2.0F, std::nanf("")};
    isa->swiglu(gate.data(), up.data(), 3);
    EXPECT_EQ(gate[0], kInfinity) << isa->name;
    EXPECT_TRUE(std::isnan(gate[1]) && std::isnan(gate[2])) << isa->name;
    std::vector<float> x = {kInfinity, std::nanf(""), -std::nanf("")};
    isa->gelu(x.data(), 3);
    EXPECT_EQ(x[0], kInfinity) << isa->name;
    EXPECT_TRUE(std::isnan(x[1]) && std::isnan(x[2])) << isa->name;
  }
}

TEST(Activation, EveryLengthTouchesNothingElse) {
  for (const RowsIsa* isa : rows_variants())
    for (std::int64_t cols = 0; cols <= 40; ++cols) {
      std::vector<float> gate = random_floats(41, static_cast<unsigned>(cols));
      std::vector<float> x = gate;
      const std::vector<float> before = gate;
      std::vector<float> up = random_floats(cols, 9);
      isa->swiglu(gate.data(), up.data(), cols);
      isa->gelu(x.data(), cols);
      for (std::int64_t i = 0; i < 41; ++i) {
        const auto at = static_cast<std::size_t>(i);
        EXPECT_EQ(gate[at] == before[at], i >= cols) << isa->name << ' ' << i;
        EXPECT_EQ(x[at] == before[at], i >= cols) << isa->name << ' ' << i;
      }
    }
}

TEST(Activation, RowsWithStridesOnAnyThreads) {
  const std::int64_t rows = 300;
  const std::int64_t cols = 77;
  std::vector<float> up = random_floats(rows * (cols + 2), 1);
  const std::vector<float> gate = random_floats(rows * (cols + 3), 2);
  std::vector<float> expected = gate;
  std::vector<float> expected_gelu = gate;
  const MatrixView up_view{up.data(), DType::kF32, rows, cols, cols + 2};
  swiglu_reference({expected.data(), DType::kF32, rows, cols, cols + 3}, up_view);
  gelu_reference({expected_gelu.data(), DType::kF32, rows, cols, cols + 3});
  for (const int threads : {1, 2, 5}) {
    std::vector<float> got = gate;
    swiglu({.threads = threads}, {got.data(), DType::kF32, rows, cols, cols + 3}, up_view);
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-6F) << i;
    got = gate;
    gelu({.threads = threads}, {got.data(), DType::kF32, rows, cols, cols + 3});
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected_gelu[i], 2e-6F) << i;
  }
}

}  // namespace
}  // namespace purekv
