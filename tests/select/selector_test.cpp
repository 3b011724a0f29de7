#include "select/selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "purekv/error.h"
#include "support/random.h"
#include "support/tables.h"

namespace purekv {
namespace {

/// A layer's observation over random rows, with its own memory.
struct Layer {
  HeadShape shape{.heads = 4, .kv_heads = 2, .head_dim = 8};
  std::vector<float> q, k, v, lse, grams;
  const FrameTable* table;

  Layer(const FrameTable& t, unsigned seed)
      : q(random_floats(std::int64_t{t.rows} * 32, seed)),
        k(random_floats(std::int64_t{t.rows} * 16, seed + 1)),
        v(random_floats(std::int64_t{t.rows} * 16, seed + 2)),
        lse(static_cast<std::size_t>(4 * t.rows), 3.0F),
        grams(4 * 64, 0.0F),
        table(&t) {
    for (std::size_t h = 0; h < 4; ++h)
      for (std::size_t i = 0; i < 8; ++i) grams[h * 64 + i * 9] = 1.0F;  // W_o^h is the identity
  }

  [[nodiscard]] Observation observe(std::int64_t layer) const {
    return {.layer = layer,
            .layers = 4,
            .shape = shape,
            .scale = 1.0F / std::sqrt(8.0F),
            .table = table,
            .q = {q.data(), DType::kF32, table->rows, 32, 32},
            .kv = kv_view(shape, table->rows, k, v),
            .lse = lse.data(),
            .gram = [this] { return GramView{grams.data()}; }};
  }
};

using Slots = std::vector<std::vector<std::int32_t>>;

Slots slots_of(const KeepList& keep) {
  Slots slots;
  for (std::size_t h = 0; h < keep.counts.size(); ++h) {
    const std::int32_t* first = keep.slots + static_cast<std::int64_t>(h) * keep.slot_stride;
    slots.emplace_back(first, first + keep.counts[h]);
  }
  return slots;
}

CompressionOptions with_budget(Score score, double percent) {
  CompressionOptions options;
  options.score = score;
  options.budget = {.is_percent = true, .percent = percent};
  return options;
}

std::int64_t budget_of(double percent, std::int64_t rows) {
  CompressionOptions options = with_budget(Score::kOwn, percent);
  return resolve_budget(options, make_table(static_cast<std::int32_t>(rows), {}, 0, 0)).rows;
}

TEST(Budget, SharesAreFloorsThatKeepAtLeastOne) {
  EXPECT_EQ(budget_of(20, 100), 20);
  EXPECT_EQ(budget_of(20, 99), 19);
  EXPECT_EQ(budget_of(0.1, 100), 1);
  EXPECT_EQ(budget_of(100, 77), 77);
  EXPECT_EQ(budget_of(29, 100), 29);  // 0.29 * 100 is 28.999999999999996 in double
}

TEST(Budget, WrongSharesAndCountsAreUsageErrors) {
  for (const double percent : {0.0, -1.0, 100.5, std::nan("")}) EXPECT_THROW(budget_of(percent, 10), Error);
  CompressionOptions options;
  options.budget = {.is_percent = false, .rows = 0};
  EXPECT_THROW(resolve_budget(options, make_table(5, {}, 0, 0)), Error);
}

TEST(Budget, WindowIsAtMostHalfAndNothingIsCompressedBelowIt) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 42);  // 100 rows
  CompressionOptions options = with_budget(Score::kOwn, 20);
  options.window_is_question = false;
  options.window = 32;
  EXPECT_EQ(resolve_budget(options, table).window, 10);
  options.window = 3;
  EXPECT_EQ(resolve_budget(options, table).window, 3);
  EXPECT_TRUE(resolve_budget(options, table).compress);
  options.window = 100;
  EXPECT_FALSE(resolve_budget(options, table).compress);
  options.window = 99;
  EXPECT_TRUE(resolve_budget(options, table).compress);
  options.budget = {.is_percent = false, .rows = 1};
  EXPECT_EQ(resolve_budget(options, table).window, 1);
  options.budget.rows = 100;
  EXPECT_FALSE(resolve_budget(options, table).compress);
  options.budget.rows = 99;
  EXPECT_TRUE(resolve_budget(options, table).compress);
}

TEST(Budget, FrameScoresKeepTextAndOneRowMore) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 42);
  const ResolvedBudget budget = resolve_budget(with_budget(Score::kOwnFrame, 5), table);
  EXPECT_EQ(budget.rows, 47);
  EXPECT_EQ(budget.window, 42);
  const FrameTable long_question = make_table(4, {{6, 3, 3}}, 0, 80);
  EXPECT_EQ(resolve_budget(with_budget(Score::kFrame, 5), long_question).window, 64);
}

TEST(Budget, FullNeverCompresses) {
  CompressionOptions options = with_budget(Score::kOwn, 5);
  options.method = Method::kFull;
  EXPECT_FALSE(resolve_budget(options, make_table(100, {}, 0, 0)).compress);
}

struct Case {
  Score score;
  BudgetBase base;
};

class EveryScore : public testing::TestWithParam<std::tuple<Score, BudgetBase, Method>> {
 protected:
  CompressionOptions options(double percent) const {
    CompressionOptions o = with_budget(std::get<0>(GetParam()), percent);
    o.budget_base = std::get<1>(GetParam());
    o.method = std::get<2>(GetParam());
    o.clie_layer = 1;
    return o;
  }
};

TEST_P(EveryScore, ListsAscendAndCountWhatTheBudgetSays) {
  for (const NamedTable& edge : edge_tables())
    for (const double percent : {0.1, 5.0, 20.0, 50.0, 99.0, 100.0})
      for (const std::int64_t sinks : {0, 1, 4, 1000}) {
        CompressionOptions o = options(percent);
        o.sinks = sinks;
        Selector selector({}, o, edge.table);
        const ResolvedBudget& budget = selector.budget();
        const bool video = o.budget_base == BudgetBase::kVideo;
        const std::int64_t text = edge.table.rows - edge.table.visual_rows();
        for (std::int64_t layer = 0; layer < 4; ++layer) {
          const Layer rows(edge.table, static_cast<unsigned>(layer));
          const auto keep = selector.select(rows.observe(layer));
          ASSERT_EQ(keep.has_value(), budget.compress) << edge.name;
          if (!keep) continue;
          for (const auto& slots : slots_of(*keep)) {
            ASSERT_EQ(static_cast<std::int64_t>(slots.size()), budget.rows + (video ? text : 0))
                << edge.name << ' ' << percent << " sinks " << sinks;
            ASSERT_TRUE(std::is_sorted(slots.begin(), slots.end()));
            ASSERT_EQ(std::adjacent_find(slots.begin(), slots.end()), slots.end());
            ASSERT_EQ(slots.back(), edge.table.rows - 1) << "the last row is in every window";
          }
        }
      }
}

INSTANTIATE_TEST_SUITE_P(Selector, EveryScore,
                         testing::Combine(testing::Values(Score::kOwn, Score::kClie, Score::kFrame, Score::kOwnFrame,
                                                          Score::kClieFrame),
                                          testing::Values(BudgetBase::kPrompt, BudgetBase::kVideo),
                                          testing::Values(Method::kPureKv, Method::kRandom)));

std::map<std::string, int> sunk_files(const CompressionOptions& options, const FrameTable& table) {
  std::map<std::string, int> files;
  Selector selector({}, options, table,
                    [&](std::string_view name, std::int64_t, const float*, std::int64_t, std::int64_t) {
                      ++files[std::string(name)];
                    });
  for (std::int64_t layer = 0; layer < 4; ++layer) {
    const Layer rows(table, static_cast<unsigned>(layer));
    selector.select(rows.observe(layer));
  }
  return files;
}

TEST(Selector, ClieComputesOwnScoresUpToItsLayerOnly) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 9);
  CompressionOptions options = with_budget(Score::kClie, 30);
  options.clie_layer = 1;
  EXPECT_EQ(sunk_files(options, table)["window"], 2);
  options.clie_layer = 0;
  EXPECT_EQ(sunk_files(options, table)["window"], 1);
  options.clie_layer = 4;  // past the last layer: own scores everywhere
  EXPECT_EQ(sunk_files(options, table)["window"], 4);
}

TEST(Selector, ClieAboveItsLayerUsesThatLayersColumns) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 9);
  CompressionOptions options = with_budget(Score::kClie, 30);
  options.clie_layer = 0;
  options.vnorm = ValueNorm::kOff;
  std::vector<std::vector<float>> scores;
  Selector selector({}, options, table,
                    [&](std::string_view name, std::int64_t, const float* data, std::int64_t heads, std::int64_t n) {
                      if (name == "score") scores.emplace_back(data, data + heads * n);
                    });
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    const Layer rows(table, static_cast<unsigned>(layer));
    selector.select(rows.observe(layer));
  }
  ASSERT_EQ(scores.size(), 3U);
  EXPECT_EQ(scores[1], scores[0]);
  EXPECT_EQ(scores[2], scores[0]);
}

TEST(Selector, FrameScoresWriteTheirTermsAndRandomOnlyItsNoise) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 9);
  const std::map<std::string, int> joined = {{"window", 4}, {"vnorm", 4}, {"local", 4},
                                             {"self", 4},   {"nov", 4},   {"score", 4}};
  EXPECT_EQ(sunk_files(with_budget(Score::kOwnFrame, 40), table), joined);
  CompressionOptions random = with_budget(Score::kOwnFrame, 40);
  random.method = Method::kRandom;
  EXPECT_EQ(sunk_files(random, table), (std::map<std::string, int>{{"score", 4}}));
  EXPECT_TRUE(sunk_files(with_budget(Score::kOwnFrame, 100), table).empty());
}

// M12 links equal cells of unequal grids in a mask; novelty is the whole value there (docs/method.md).
TEST(Selector, NoveltyAcrossGridsIsTheValueItself) {
  const FrameTable table = make_frame_table(25, {{1, 0, 0, 2, 3}, {7, 0, 1, 3, 2}, {13, 0, 2, 3, 2}});
  const Layer rows(table, 3);
  std::map<std::string, std::vector<float>> arrays;
  CompressionOptions options = with_budget(Score::kFrame, 5);
  options.budget_base = BudgetBase::kVideo;
  Selector selector({}, options, table,
                    [&](std::string_view name, std::int64_t, const float* data, std::int64_t heads, std::int64_t n) {
                      arrays[std::string(name)].assign(data, data + heads * n);
                    });
  ASSERT_TRUE(selector.select(rows.observe(0)).has_value());
  const auto& nov = arrays["nov"];
  const auto& out = arrays["vnorm"];
  for (std::size_t row = 1; row < 13; ++row) EXPECT_EQ(nov[row], out[row]) << row;
  for (std::size_t row = 13; row < 19; ++row) EXPECT_NE(nov[row], out[row]) << row;
  for (std::size_t row : {0, 19}) EXPECT_EQ(nov[row], 0) << row;
}

// Equal scores everywhere: what stays is the lowest rows beside the window, whatever the head.
TEST(Selector, OfEqualScoresTheLowerRowsStay) {
  const FrameTable table = make_table(2, {{5, 2, 2}}, 0, 4);
  Layer rows(table, 3);
  std::fill(rows.q.begin(), rows.q.end(), 0.0F);
  CompressionOptions options = with_budget(Score::kOwn, 50);
  options.vnorm = ValueNorm::kOff;
  options.window = 3;
  options.window_is_question = false;
  // A row of the window sees all columns alike: each column's maximum is 1 / (l - 2), the first window row's.
  Selector selector({}, options, table);
  const auto keep = selector.select(rows.observe(0));
  ASSERT_TRUE(keep.has_value());
  for (const auto& slots : slots_of(*keep))
    EXPECT_EQ(slots, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 23, 24, 25}));
}

TEST(Selector, RandomFollowsItsSeed) {
  const FrameTable table = make_table(4, {{6, 3, 3}}, 0, 9);
  const Layer rows(table, 1);
  CompressionOptions options = with_budget(Score::kOwn, 30);
  options.method = Method::kRandom;
  const auto chosen = [&](std::uint64_t seed) {
    options.seed = seed;
    Selector selector({}, options, table);
    return slots_of(*selector.select(rows.observe(0)));
  };
  EXPECT_EQ(chosen(1), chosen(1));
  EXPECT_NE(chosen(1), chosen(2));
  EXPECT_NE(chosen(1)[0], chosen(1)[1]);
}

TEST(Presets, AreTheTableOfTheContract) {
  const AskOptions paper = preset_options("purekv-paper");
  EXPECT_EQ(paper.compression.score, Score::kClie);
  EXPECT_EQ(paper.compression.clie_layer, 2);
  EXPECT_EQ(paper.compression.row_reduce, RowReduce::kSum);
  EXPECT_EQ(paper.compression.gqa_reduce, GqaReduce::kMean);
  EXPECT_EQ(paper.compression.vnorm, ValueNorm::kL2);
  EXPECT_EQ(paper.compression.window, 32);
  EXPECT_EQ(paper.attention.pattern, Pattern::kSpatialTemporal);
  const AskOptions ours = preset_options("purekv");
  EXPECT_EQ(ours.compression.score, Score::kOwnFrame);
  EXPECT_EQ(ours.attention.pattern, Pattern::kDense);
  EXPECT_THROW(preset_options("best"), Error);
}

}  // namespace
}  // namespace purekv
