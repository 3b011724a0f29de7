#include "sparse/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/tables.h"

namespace purekv {
namespace {

/// How often each (row, key) pair is visited.
std::vector<int> visits(const AttentionPlan& plan, std::int32_t rows) {
  std::vector<int> count(static_cast<std::size_t>(rows) * static_cast<std::size_t>(rows), 0);
  const auto at = [&](std::int32_t i, std::int32_t j) -> int& {
    return count[static_cast<std::size_t>(i) * static_cast<std::size_t>(rows) + static_cast<std::size_t>(j)];
  };
  for (const QueryBlock& block : plan.blocks)
    for (std::int32_t n = 0; n < block.count; ++n) {
      const std::int32_t i = block.first + n * block.step;
      for (std::int32_t r = block.range_begin; r < block.range_end; ++r) {
        const KeyRange& range = plan.ranges[static_cast<std::size_t>(r)];
        for (std::int32_t k = 0; k < range.count; ++k) {
          const std::int32_t j = range.first + k * range.step;
          if ((!range.causal || j <= i) && i - j <= range.reach) ++at(i, j);
        }
      }
      if (plan.seeds.empty()) continue;
      for (const std::int32_t seed : plan.seeds[static_cast<std::size_t>(i)])
        if (seed >= 0) ++at(i, seed);
    }
  return count;
}

/// docs/method.md, straight from its table.
bool allowed(const FrameTable& table, const PlanRequest& request, std::int32_t i, std::int32_t j) {
  if (j > i) return false;
  if (request.pattern == Pattern::kDense || table.is_text(i) || table.is_text(j)) return true;
  const RowPlace& a = table.places[static_cast<std::size_t>(i)];
  const RowPlace& b = table.places[static_cast<std::size_t>(j)];
  if (a.clip != b.clip) return false;
  const std::int32_t f = table.frames[static_cast<std::size_t>(a.frame)].index;
  const std::int32_t g = table.frames[static_cast<std::size_t>(b.frame)].index;
  const bool spatial = f == g || g == 0;
  const bool temporal = i == j || g == 0 || (g == f - 1 && a.cell == b.cell);
  switch (request.pattern) {
    case Pattern::kLocal:
      return i - j <= request.local_window;
    case Pattern::kAtrous:
      return (i - j) % request.atrous_rate == 0;
    case Pattern::kSpatial:
      return spatial;
    case Pattern::kTemporal:
      return temporal;
    default:
      return spatial || temporal;
  }
}

class EveryPattern : public testing::TestWithParam<Pattern> {};

TEST_P(EveryPattern, VisitsEachAllowedPairOnce) {
  for (const NamedTable& edge : edge_tables())
    for (const std::int64_t parameter : {1, 2, 5, 17, 1000000}) {
      const PlanRequest request{.pattern = GetParam(), .local_window = parameter, .atrous_rate = parameter};
      const AttentionPlan plan = make_plan(edge.table, request);
      const std::vector<int> count = visits(plan, edge.table.rows);
      std::int64_t pairs = 0;
      for (std::int32_t i = 0; i < edge.table.rows; ++i)
        for (std::int32_t j = 0; j < edge.table.rows; ++j) {
          const int expected = allowed(edge.table, request, i, j) ? 1 : 0;
          pairs += expected;
          const auto at = static_cast<std::size_t>(i) * static_cast<std::size_t>(edge.table.rows);
          ASSERT_EQ(count[at + static_cast<std::size_t>(j)], expected)
              << edge.name << " parameter " << parameter << " row " << i << " key " << j;
        }
      EXPECT_EQ(plan.pairs, pairs) << edge.name;
    }
}

TEST_P(EveryPattern, BlocksCoverEachRowOnce) {
  for (const NamedTable& edge : edge_tables()) {
    const AttentionPlan plan = make_plan(edge.table, {.pattern = GetParam(), .local_window = 3, .atrous_rate = 3});
    std::vector<int> seen(static_cast<std::size_t>(edge.table.rows), 0);
    for (const QueryBlock& block : plan.blocks)
      for (std::int32_t n = 0; n < block.count; ++n) ++seen[static_cast<std::size_t>(block.first + n * block.step)];
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; })) << edge.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Plan, EveryPattern,
                         testing::Values(Pattern::kDense, Pattern::kSpatialTemporal, Pattern::kSpatial,
                                         Pattern::kTemporal, Pattern::kLocal, Pattern::kAtrous));

// T9: the counts of docs/method.md.
TEST(Plan, SpatialTemporalIsSpatialPlusOneKeyARow) {
  const std::int64_t frames = 7;
  const std::int64_t cells = 12;
  const FrameTable table = make_table(0, {{7, 3, 4}}, 0, 0);
  const std::int64_t spatial = make_plan(table, {.pattern = Pattern::kSpatial}).pairs;
  EXPECT_EQ(spatial, frames * cells * (cells + 1) / 2 + (frames - 1) * cells * cells);
  EXPECT_EQ(make_plan(table, {.pattern = Pattern::kSpatialTemporal}).pairs - spatial, (frames - 2) * cells);
}

// Frames of different size link equal cells only (M12).
TEST(Plan, FramesOfDifferentGridsLinkTheCellsBothHave) {
  std::vector<FrameSpan> frames = {{0, 0, 0, 2, 2}, {4, 0, 1, 2, 3}, {10, 0, 2, 3, 2}};
  const FrameTable table = make_frame_table(16, frames);
  const AttentionPlan plan = make_plan(table, {.pattern = Pattern::kTemporal});
  const std::vector<std::int32_t> before = {4, 5, 7, 8, -1, -1};
  for (std::size_t cell = 0; cell < before.size(); ++cell) {
    EXPECT_EQ(plan.seeds[10 + cell][0], static_cast<std::int32_t>(10 + cell));
    EXPECT_EQ(plan.seeds[10 + cell][1], before[cell]);
  }
}

TEST(SegmentPlan, RowsSeeTheirSegmentBothWays) {
  const AttentionPlan plan = make_segment_plan({0, 1, 64, 129}, 64);
  const std::vector<int> count = visits(plan, 129);
  for (std::size_t i = 0; i < 129; ++i)
    for (std::size_t j = 0; j < 129; ++j) {
      const auto segment = [](std::size_t n) { return n < 1 ? 0 : n < 64 ? 1 : 2; };
      ASSERT_EQ(count[i * 129 + j], segment(i) == segment(j) ? 1 : 0) << i << ' ' << j;
    }
  EXPECT_EQ(plan.pairs, 1 + 63 * 63 + 65 * 65);
}

}  // namespace
}  // namespace purekv
