#include "cache/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

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

TEST(KvCache, CompactIsGather) {
  const Context context;
  KvCache cache(context, kShape, 2);
  const CompactionPlan plan{{{{0, 4, 5}, {2}}}};
  cache.apply(0, filled(cache, context, 6), &plan);
  cache.apply(1, filled(cache, context, 6), nullptr, 100);
  expect_rows(cache, 0, 0, {0, 4, 5});
  expect_rows(cache, 0, 1, {2});
  expect_rows(cache, 1, 1, {0, 1, 2, 3, 4, 5});
  EXPECT_EQ(cache.rows(0, 0), 3);
  EXPECT_EQ(cache.rows(0, 1), 1);
  const auto tokens = cache.tokens(0, 0);
  EXPECT_EQ(std::vector<std::int32_t>(tokens.begin(), tokens.end()), (std::vector<std::int32_t>{0, 4, 5}));
  EXPECT_EQ(cache.tokens(1, 0)[5], 105);
  EXPECT_EQ(cache.bytes_used(), (4 + 12) * 2 * 3 * 4);
}

TEST(KvCache, KeepingNothingIsAnEmptyHead) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const CompactionPlan plan{{{{}, {1}}}};
  cache.apply(0, filled(cache, context, 2), &plan);
  EXPECT_EQ(cache.rows(0, 0), 0);
  const KvCache::AppendSlot slot = cache.append(0, 2);
  std::memset(slot.k[0], 0, 12);
  std::memset(slot.v[0], 0, 12);
  EXPECT_EQ(cache.rows(0, 0), 1);
  EXPECT_EQ(cache.tokens(0, 0)[0], 2);
}

TEST(KvCache, AppendKeepsWhatIsThereOverManyGrowths) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const CompactionPlan plan{{{{1, 3}, {0, 2, 3}}}};
  cache.apply(0, filled(cache, context, 4), &plan);
  std::vector<std::int32_t> first = {1, 3};
  std::vector<std::int32_t> second = {0, 2, 3};
  for (std::int32_t token = 4; token < 4 + 100; ++token) {
    const KvCache::AppendSlot slot = cache.append(0, token);
    for (std::size_t h = 0; h < 2; ++h)
      for (int t = 0; t < 3; ++t) {
        const auto x = static_cast<float>(1000 * static_cast<int>(h) + 10 * token + t);
        static_cast<float*>(slot.k[h])[t] = x;
        static_cast<float*>(slot.v[h])[t] = x + 0.5F;
      }
    first.push_back(token);
    second.push_back(token);
  }
  expect_rows(cache, 0, 0, first);
  expect_rows(cache, 0, 1, second);
}

TEST(KvCache, BytesAreCountedWhereTheyAreTaken) {
  const Context context{.compute = DType::kBF16};
  KvCache cache(context, kShape, 3);
  const std::int64_t rows = 100;
  const std::int64_t layer = rows * 2 * 2 * 3 * 2;
  const CompactionPlan plan{{{{0, 1}, {0, 1}}}};
  const std::int64_t kept = 2 * 2 * 2 * 3 * 2;
  for (std::int64_t l = 0; l < 3; ++l) cache.apply(l, filled(cache, context, rows), &plan);
  EXPECT_EQ(cache.counter()->live(), 3 * kept);
  EXPECT_EQ(cache.counter()->peak(), 3 * kept + layer);
  EXPECT_EQ(cache.bytes_used(), 3 * kept);
  cache.append(0, 100);
  EXPECT_LE(cache.counter()->live(), 3 * kept + 32 * 2 * 2 * 3 * 2);
}

TEST(KvCache, AWrongHeadCountIsOurFault) {
  const Context context;
  KvCache cache(context, kShape, 1);
  const CompactionPlan plan{{{{0}}}};
  EXPECT_THROW(cache.apply(0, filled(cache, context, 2), &plan), Error);
}

}  // namespace
}  // namespace purekv
