#include "kernels/top_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace purekv {
namespace {

using Rows = std::vector<std::int32_t>;

TEST(TopRows, CountsAroundTheEdges) {
  const std::vector<float> score = {1, 5, 3, 5, 2};
  EXPECT_EQ(top_rows({}, score.data(), 5, 0), Rows{});
  EXPECT_EQ(top_rows({}, score.data(), 5, 1), Rows{1});
  EXPECT_EQ(top_rows({}, score.data(), 5, 3), (Rows{1, 2, 3}));
  EXPECT_EQ(top_rows({}, score.data(), 5, 5), (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(top_rows({}, score.data(), 5, 9), (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(top_rows({}, score.data(), 0, 2), Rows{});
}

TEST(TopRows, OfEqualsTheLowerRowAndNanLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> score = {nan, 2, 2, -inf, 2, inf, nan};
  EXPECT_EQ(top_rows({}, score.data(), 7, 3), (Rows{1, 2, 5}));
  EXPECT_EQ(top_rows({}, score.data(), 7, 5), (Rows{1, 2, 3, 4, 5}));
  EXPECT_EQ(top_rows({}, score.data(), 7, 6), (Rows{0, 1, 2, 3, 4, 5}));
}

TEST(TopRows, EqualsAStableSort) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::int64_t rows = std::uniform_int_distribution<std::int64_t>(1, 300)(random);
    const std::int64_t count = std::uniform_int_distribution<std::int64_t>(0, rows)(random);
    std::vector<float> score;
    for (std::int64_t i = 0; i < rows; ++i)
      score.push_back(static_cast<float>(std::uniform_int_distribution<int>(0, 20)(random)));  // many ties
    Rows order(static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    EXPECT_EQ(top_rows({}, score.data(), rows, count), order);
  }
}

}  // namespace
}  // namespace purekv
