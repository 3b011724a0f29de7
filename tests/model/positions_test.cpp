#include "model/positions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace purekv {
namespace {

std::vector<std::int32_t> distinct(const std::vector<std::int32_t>& values, std::size_t begin, std::size_t count) {
  std::vector<std::int32_t> out(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                values.begin() + static_cast<std::ptrdiff_t>(begin + count));
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

TEST(Positions, VideoVectorOfTheSpecification) {
  const std::vector<PositionRun> runs = {
      {.text = 15}, {.grid_t = 4, .grid_h = 2, .grid_w = 3, .second_per_grid = 1.0}, {.text = 7}};
  const Positions p = make_positions(runs, 2.0);
  ASSERT_EQ(p.rows(), 15 + 24 + 7);
  EXPECT_EQ(distinct(p.axis[0], 15, 24), (std::vector<std::int32_t>{15, 17, 19, 21}));
  EXPECT_EQ(distinct(p.axis[1], 15, 24), (std::vector<std::int32_t>{15, 16}));
  EXPECT_EQ(distinct(p.axis[2], 15, 24), (std::vector<std::int32_t>{15, 16, 17}));
  EXPECT_EQ(p.axis[0][39], 22);
  EXPECT_EQ(p.axis[2][39], 22);
  EXPECT_EQ(p.next - static_cast<std::int32_t>(p.rows()), -17);
}

TEST(Positions, SecondsAreTruncatedAfterTheProduct) {
  const std::vector<PositionRun> runs = {{.grid_t = 5, .grid_h = 1, .grid_w = 1, .second_per_grid = 9.375}};
  const Positions p = make_positions(runs, 2.0);
  EXPECT_EQ(p.axis[0], (std::vector<std::int32_t>{0, 18, 37, 56, 75}));
}

TEST(Positions, TextAfterAWideImageStartsPastItsWidth) {
  const std::vector<PositionRun> runs = {{.text = 2}, {.grid_t = 1, .grid_h = 3, .grid_w = 9}, {.text = 1}};
  const Positions p = make_positions(runs, 2.0);
  EXPECT_EQ(p.axis[0][2], 2);
  EXPECT_EQ(p.axis[2][2 + 8], 10);
  EXPECT_EQ(p.axis[0].back(), 11);
  EXPECT_EQ(p.next, 12);
}

TEST(Positions, TextAloneCounts) {
  const std::vector<PositionRun> runs = {{.text = 4}};
  const Positions p = make_positions(runs, 2.0);
  for (const auto& axis : p.axis) EXPECT_EQ(axis, (std::vector<std::int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(p.next, 4);
}

TEST(RopeTable, EachFrequencyTurnsByItsSectionsAxis) {
  TextConfig config;
  config.heads = {2, 1, 16};
  config.rope_theta = 100.0;
  config.mrope_section = {2, 3, 3};
  Positions p;
  p.axis = {std::vector<std::int32_t>{5}, {7}, {11}};
  const RopeTable table = make_rope_table(Context{}, config, p);
  ASSERT_EQ(table.half, 8);
  for (std::size_t j = 0; j < 8; ++j) {
    const double position = j < 2 ? 5 : j < 5 ? 7 : 11;
    const double angle = position * std::pow(100.0, -2.0 * static_cast<double>(j) / 16.0);
    EXPECT_NEAR(table.cos_row(0)[j], std::cos(angle), 1e-5) << j;
    EXPECT_NEAR(table.sin_row(0)[j], std::sin(angle), 1e-5) << j;
  }
}

TEST(VisionRopeTable, RowsFollowMergeBlocks) {
  VisionConfig config;
  config.hidden = 16;
  config.heads = 2;
  const std::vector<std::int32_t> cells = {1, 0};
  const RopeTable table = make_vision_rope_table(Context{}, config, 4, cells, 2);
  ASSERT_EQ(table.rows, 16);
  ASSERT_EQ(table.half, 4);
  const std::vector<std::pair<int, int>> order = {{0, 2}, {0, 3}, {1, 2}, {1, 3}, {0, 0}, {0, 1}, {1, 0}, {1, 1}};
  for (std::size_t row = 0; row < 16; ++row) {
    const float* cos = table.cos_row(static_cast<std::int64_t>(row));
    EXPECT_FLOAT_EQ(cos[0], std::cos(static_cast<float>(order[row % 8].first))) << row;
    EXPECT_FLOAT_EQ(cos[2], std::cos(static_cast<float>(order[row % 8].second))) << row;
  }
}

}  // namespace
}  // namespace purekv
