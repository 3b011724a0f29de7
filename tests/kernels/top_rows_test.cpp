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

Rows best(const std::vector<float>& score, std::int64_t count) {
  Rows slots(static_cast<std::size_t>(count), -1);
  const auto rows = static_cast<std::int64_t>(score.size());
  top_rows({}, {.score = score.data(),
                .heads = 1,
                .rows = rows,
                .stride = rows,
                .count = count,
                .slots = slots.data(),
                .slot_stride = count});
  return slots;
}

TEST(TopRows, CountsAroundTheEdges) {
  const std::vector<float> score = {1, 5, 3, 5, 2};
  EXPECT_EQ(best(score, 0), Rows{});
  EXPECT_EQ(best(score, 1), Rows{1});
  EXPECT_EQ(best(score, 3), (Rows{1, 2, 3}));
  EXPECT_EQ(best(score, 5), (Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(best({}, 0), Rows{});
}

TEST(TopRows, EveryHeadHasItsOwnListAndNothingElseIsWritten) {
  const std::vector<float> score = {1, 3, 2, 9, /**/ 2, 2, 1, 9, /**/ 0, -1, 7, 9};  // the fourth column is not ranked
  Rows slots(9, -1);
  top_rows(
      {.threads = 2},
      {.score = score.data(), .heads = 3, .rows = 3, .stride = 4, .count = 2, .slots = slots.data(), .slot_stride = 3});
  EXPECT_EQ(slots, (Rows{1, 2, -1, 0, 1, -1, 0, 2, -1}));
}

TEST(TopRows, OfEqualsTheLowerRowAndNanLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> score = {nan, 2, 2, -inf, 2, inf, nan};
  EXPECT_EQ(best(score, 3), (Rows{1, 2, 5}));
  EXPECT_EQ(best(score, 5), (Rows{1, 2, 3, 4, 5}));
  EXPECT_EQ(best(score, 6), (Rows{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(best({-0.0F, 0.0F, -1, 0.0F}, 2), (Rows{0, 1}));
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
    EXPECT_EQ(best(score, count), order);
  }
}

}  // namespace
}  // namespace purekv
