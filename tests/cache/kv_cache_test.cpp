#include "cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "cache/kv_batch.h"
#include "purekv/error.h"

namespace purekv {
namespace {

constexpr HeadShape kShape{.heads = 4, .kv_heads = 2, .head_dim = 3};

/// Scratch whose key element is 1000 * head + 10 * row + dim; values are that plus 0.5.
LayerScratch filled(KvCache& cache, const Context& context, std::int64_t rows) {
  LayerScratch scratch(context, kShape, rows, cache.counter());
  for (std::int64_t h = 0; h < 2; ++h)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t t = 0; t < 3; ++t) {
        const std::int64_t at = (h * rows + r) * 3 + t;
        const auto x = static_cast<float>(1000 * h + 10 * r + t);
        if (context.compute == DType::kF32) {
          static_cast<float*>(scratch.keys())[at] = x;
          static_cast<float*>(scratch.values())[at] = x + 0.5F;
        } else {
          static_cast<BFloat16*>(scratch.keys())[at] = to_bf16(x);
          static_cast<BFloat16*>(scratch.values())[at] = to_bf16(x + 0.5F);
        }
      }
  return scratch;
}

void expect_rows(const KvCache& cache, std::int64_t layer, std::int64_t head, const std::vector<std::int32_t>& rows) {
  const KvHeadView view = cache.view(layer).heads[static_cast<std::size_t>(head)];
  ASSERT_EQ(view.rows, static_cast<std::int64_t>(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::int64_t t = 0; t < 3; ++t) {
      const auto at = static_cast<std::int64_t>(i) * view.stride + t;
      const auto x = static_cast<float>(1000 * head + 10 * rows[i] + t);
      EXPECT_EQ(static_cast<const float*>(view.k)[at], x);
      EXPECT_EQ(static_cast<const float*>(view.v)[at], x + 0.5F);
    }
}

using Slots = std::vector<std::vector<std::int32_t>>;

/// A plan with memory of its own.
struct Plan {
  std::vector<std::int32_t> slots;
  CompactionPlan plan;
  explicit Plan(const Slots& heads) {
    std::size_t stride = 0;
    for (const auto& head : heads) stride = std::max(stride, head.size());
    for (const auto& head : heads) {
      slots.insert(slots.end(), head.begin(), head.end());
      slots.insert(slots.end(), stride - head.size(), -1);
      plan.keep.counts.push_back(static_cast<std::int64_t>(head.size()));
    }
    plan.keep.slots = slots.data();
    plan.keep.slot_stride = static_cast<std::int64_t>(stride);
  }
};

/// What a decode step does to every head of a layer: the new row goes behind the old ones.
void write_row(const KvRows* table, std::int32_t token) {
  for (std::int64_t h = 0; h < 2; ++h)
    for (std::int64_t t = 0; t < 3; ++t) {
      const auto x = static_cast<float>(1000 * h + 10 * token + t);
      static_cast<float*>(table[h].k)[table[h].rows * 3 + t] = x;
      static_cast<float*>(table[h].v)[table[h].rows * 3 + t] = x + 0.5F;
    }
}

void end_step(KvBatch& batch, const std::vector<std::int32_t>& tokens) {
  for (std::int64_t i = 0; i < batch.count(); ++i) ++batch.entries()[i].rows;
  batch.appended(tokens);
}

TEST(KvCache, CompactIsGather) {
  const Context context;
  KvCache cache(context, kShape, 2);
  const Plan kept(Slots{{0, 4, 5}, {2}});
  cache.apply(0, filled(cache, context, 6), &kept.plan);
  cache.apply(1, filled(cache, context, 6), nullptr, 100);
  expect_rows(cache, 0, 0, {0, 4, 5});
  expect_rows(cache, 0, 1, {2});
  expect_rows(cache, 1, 1, {0, 1, 2, 3, 4, 5});
  EXPECT_EQ(cache.rows(0, 0), 3);
  EXPECT_EQ(cache.rows(0, 1), 1);
  EXPECT_EQ(cache.most_rows(), 6);
  EXPECT_EQ(cache.tokens(0, 0), (std::vector<std::int32_t>{0, 4, 5}));
  EXPECT_EQ(cache.tokens(0, 1), (std::vector<std::int32_t>{2}));
  EXPECT_EQ(cache.tokens(1, 0)[5], 105);
  EXPECT_EQ(cache.bytes_used(), (4 + 12) * 2 * 3 * 4);
}

TEST(KvCache, KeepingNothingIsAnEmptyHead) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const Plan kept(Slots{{}, {1}});
  cache.apply(0, filled(cache, context, 2), &kept.plan);
  EXPECT_EQ(cache.rows(0, 0), 0);
  KvBatch batch(context, {&cache});
  batch.prepare();
  write_row(batch.table(0), 2);
  end_step(batch, {2});
  EXPECT_EQ(cache.rows(0, 0), 1);
  EXPECT_EQ(cache.tokens(0, 0)[0], 2);
}

TEST(KvCache, AppendKeepsWhatIsThereOverManyGrowths) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const Plan kept(Slots{{1, 3}, {0, 2, 3}});
  cache.apply(0, filled(cache, context, 4), &kept.plan);
  std::vector<std::int32_t> first = {1, 3};
  std::vector<std::int32_t> second = {0, 2, 3};
  KvBatch batch(context, {&cache});
  for (std::int32_t token = 4; token < 4 + 100; ++token) {
    batch.prepare();
    write_row(batch.table(0), token);
    end_step(batch, {token});
    first.push_back(token);
    second.push_back(token);
  }
  expect_rows(cache, 0, 0, first);
  expect_rows(cache, 0, 1, second);
  EXPECT_EQ(cache.tokens(0, 0), first);
  EXPECT_EQ(cache.tokens(0, 1), second);
}

TEST(KvBatch, HoldsTheRowsOfEverySequenceWhereTheyAre) {
  const Context context;
  KvCache one(context, kShape, 2);
  KvCache other(context, kShape, 2);
  const Plan kept(Slots{{0, 2}, {1, 3}});
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    one.apply(layer, filled(one, context, 4), &kept.plan);
    other.apply(layer, filled(other, context, 5), nullptr);
  }
  KvBatch batch(context, {&one, &other});
  std::array<std::vector<std::int32_t>, 3> rows = {{{0, 2}, {1, 3}, {0, 1, 2, 3, 4}}};
  const KvRows* address = batch.table(0);
  for (std::int32_t step = 0; step < 70; ++step) {
    batch.prepare();
    ASSERT_EQ(batch.table(0), address);
    EXPECT_EQ(batch.most_rows(), 5 + step);
    for (std::int64_t layer = 0; layer < 2; ++layer)
      for (std::int64_t i = 0; i < 2; ++i) write_row(batch.table(layer) + 2 * i, 4 + step + static_cast<int>(i));
    end_step(batch, {4 + step, 5 + step});
    for (std::size_t h = 0; h < 3; ++h) rows[h].push_back(4 + step + (h == 2 ? 1 : 0));
  }
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    expect_rows(one, layer, 0, rows[0]);
    expect_rows(one, layer, 1, rows[1]);
    expect_rows(other, layer, 0, rows[2]);
    expect_rows(other, layer, 1, rows[2]);
  }
  EXPECT_EQ(batch.count(), 2 * 2 * 2);
  EXPECT_EQ(other.tokens(1, 1), rows[2]);
}

TEST(KvCache, BytesAreCountedWhereTheyAreTaken) {
  const Context context{.compute = DType::kBF16};
  KvCache cache(context, kShape, 3);
  const std::int64_t rows = 100;
  const std::int64_t layer = rows * 2 * 2 * 3 * 2;
  const Plan kept(Slots{{0, 1}, {0, 1}});
  const std::int64_t bytes = 2 * 2 * 2 * 3 * 2;
  for (std::int64_t l = 0; l < 3; ++l) cache.apply(l, filled(cache, context, rows), &kept.plan);
  EXPECT_EQ(cache.counter()->live(), 3 * bytes);
  EXPECT_EQ(cache.counter()->peak(), 3 * bytes + layer);
  EXPECT_EQ(cache.bytes_used(), 3 * bytes);
  cache.reserve(0);
  EXPECT_LE(cache.counter()->live(), 3 * bytes + 32 * 2 * 2 * 3 * 2);
}

TEST(KvCache, AWrongHeadCountIsOurFault) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const Plan kept(Slots{{0}});
  EXPECT_THROW(cache.apply(0, filled(cache, context, 2), &kept.plan), Error);
}

}  // namespace
}  // namespace purekv
