#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "device/context.h"
#include "kernels/cpu/attention_tile.h"
#include "sparse/plan.h"
#include "support/tables.h"

namespace purekv {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

/// Random q, k, v of a shape; keys and values float32 or bf16, [kv_heads][rows][head_dim].
struct Inputs {
  HeadShape shape;
  std::int64_t rows, kv_rows;
  std::vector<float> q, k, v;
  std::vector<std::uint16_t> k16, v16;

  Inputs(const HeadShape& s, std::int64_t query_rows, std::int64_t key_rows, unsigned seed)
      : shape(s), rows(query_rows), kv_rows(key_rows) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, std::int64_t n) {
      x.resize(static_cast<std::size_t>(n));
      for (float& value : x) value = normal(random);
    };
    fill(q, rows * s.heads * s.head_dim);
    fill(k, kv_rows * s.kv_heads * s.head_dim);
    fill(v, kv_rows * s.kv_heads * s.head_dim);
  }

  void round_to_bf16() {
    for (auto* pair : {&k, &v}) {
      auto& bits = pair == &k ? k16 : v16;
      for (float& x : *pair) {
        bits.push_back(to_bf16(x).bits);
        x = to_float(BFloat16{bits.back()});
      }
    }
  }

  [[nodiscard]] KvView view() const {
    KvView out{k16.empty() ? DType::kF32 : DType::kBF16, {}};
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const std::int64_t at = h * kv_rows * shape.head_dim;
      if (k16.empty())
        out.heads.push_back({k.data() + at, v.data() + at, kv_rows, shape.head_dim});
      else
        out.heads.push_back({k16.data() + at, v16.data() + at, kv_rows, shape.head_dim});
    }
    return out;
  }
};

struct Result {
  std::vector<float> out, lse;
};

Result run(const Inputs& in, const AttentionPlan* plan, const KvView& cached, const KvView& fresh, int threads) {
  const std::int64_t width = in.shape.heads * in.shape.head_dim;
  Result r{std::vector<float>(static_cast<std::size_t>(in.rows * width), kPoison),
           std::vector<float>(static_cast<std::size_t>(in.rows * in.shape.heads), kPoison)};
  attention({.threads = threads}, {.shape = in.shape,
                                   .scale = 1.0F / std::sqrt(static_cast<float>(in.shape.head_dim)),
                                   .q = {in.q.data(), DType::kF32, in.rows, width, width},
                                   .cached = cached,
                                   .fresh = fresh,
                                   .plan = plan,
                                   .out = {r.out.data(), DType::kF32, in.rows, width, width},
                                   .lse = r.lse.data()});
  return r;
}

/// Keys that row i visits: plan and cached rows, in double precision with an explicit softmax.
std::vector<std::int32_t> keys_of(const AttentionPlan& plan, std::int32_t row) {
  std::vector<std::int32_t> keys;
  for (const QueryBlock& block : plan.blocks) {
    if (row < block.first || (row - block.first) % block.step != 0 || (row - block.first) / block.step >= block.count)
      continue;
    for (std::int32_t r = block.range_begin; r < block.range_end; ++r) {
      const KeyRange& range = plan.ranges[static_cast<std::size_t>(r)];
      for (std::int32_t k = 0; k < range.count; ++k) {
        const std::int32_t j = range.first + k * range.step;
        if ((!range.causal || j <= row) && row - j <= range.reach) keys.push_back(j);
      }
    }
    if (!plan.seeds.empty())
      for (const std::int32_t seed : plan.seeds[static_cast<std::size_t>(row)])
        if (seed >= 0) keys.push_back(seed);
  }
  return keys;
}

void expect_close(const Inputs& in, const Result& got, const std::vector<std::vector<std::int32_t>>& keys,
                  const std::string& what) {
  const std::int64_t d = in.shape.head_dim;
  for (std::int64_t i = 0; i < in.rows; ++i)
    for (std::int64_t h = 0; h < in.shape.heads; ++h) {
      const std::int64_t base = h / in.shape.group() * in.kv_rows * d;
      const float* q = in.q.data() + (i * in.shape.heads + h) * d;
      std::vector<double> logits;
      double top = -std::numeric_limits<double>::infinity();
      for (const std::int32_t j : keys[static_cast<std::size_t>(i)]) {
        double dot = 0;
        for (std::int64_t t = 0; t < d; ++t)
          dot += static_cast<double>(q[t]) * in.k[static_cast<std::size_t>(base + j * d + t)];
        logits.push_back(dot / std::sqrt(static_cast<double>(d)));
        top = std::max(top, logits.back());
      }
      double total = 0;
      std::vector<double> expected(static_cast<std::size_t>(d), 0.0);
      for (std::size_t n = 0; n < logits.size(); ++n) {
        const double p = std::exp(logits[n] - top);
        total += p;
        const std::int64_t j = keys[static_cast<std::size_t>(i)][n];
        for (std::int64_t t = 0; t < d; ++t)
          expected[static_cast<std::size_t>(t)] += p * in.v[static_cast<std::size_t>(base + j * d + t)];
      }
      for (std::int64_t t = 0; t < d; ++t)
        ASSERT_NEAR(got.out[static_cast<std::size_t>((i * in.shape.heads + h) * d + t)],
                    total > 0 ? expected[static_cast<std::size_t>(t)] / total : 0.0, 1e-5)
            << what << " row " << i << " head " << h;
      const double lse = total > 0 ? top + std::log(total) : -std::numeric_limits<double>::infinity();
      const float got_lse = got.lse[static_cast<std::size_t>(h * in.rows + i)];
      ASSERT_TRUE(static_cast<double>(got_lse) == lse || std::abs(got_lse - lse) < 1e-5) << what << ' ' << got_lse;
    }
}

void check_plan(const Inputs& in, const FrameTable& table, const PlanRequest& request, const std::string& what) {
  const AttentionPlan plan = make_plan(table, request);
  std::vector<std::vector<std::int32_t>> keys;
  for (std::int32_t i = 0; i < table.rows; ++i) keys.push_back(keys_of(plan, i));
  const Result one = run(in, &plan, {}, in.view(), 1);
  expect_close(in, one, keys, what);
  const Result three = run(in, &plan, {}, in.view(), 3);
  EXPECT_EQ(one.out, three.out) << what;
  EXPECT_EQ(one.lse, three.lse) << what;
}

TEST(Attention, EveryPatternIsDenseWithAMaskOnEveryEdge) {
  unsigned seed = 1;
  for (const NamedTable& edge : edge_tables())
    for (const Pattern pattern : {Pattern::kDense, Pattern::kSpatialTemporal, Pattern::kSpatial, Pattern::kTemporal,
                                  Pattern::kLocal, Pattern::kAtrous}) {
      const Inputs in({.heads = 6, .kv_heads = 2, .head_dim = 16}, edge.table.rows, edge.table.rows, ++seed);
      check_plan(in, edge.table, {.pattern = pattern, .local_window = 9, .atrous_rate = 4}, edge.name);
    }
}

TEST(Attention, AnyGroupAndHeadDim) {
  const FrameTable table = make_table(5, {{4, 3, 7}}, 0, 6);
  unsigned seed = 100;
  for (const std::int64_t head_dim : {2, 15, 16, 17, 64, 80, 128, 256})
    for (const std::int64_t group : {1, 2, 3, 7, 16}) {
      Inputs in({.heads = 2 * group, .kv_heads = 2, .head_dim = head_dim}, table.rows, table.rows, ++seed);
      check_plan(in, table, {.pattern = Pattern::kSpatialTemporal}, "head_dim " + std::to_string(head_dim));
      in.round_to_bf16();
      check_plan(in, table, {.pattern = Pattern::kSpatialTemporal}, "bf16 head_dim " + std::to_string(head_dim));
    }
}

TEST(Attention, CachedRowsAreSeenByEveryRow) {
  // Rows [0, 100) are cached, rows [100, 100 + n) are new: together one causal softmax.
  for (const std::int64_t fresh_rows : {1, 2, 8, 9, 65}) {
    const std::int64_t old = 100;
    const Inputs all({.heads = 4, .kv_heads = 2, .head_dim = 24}, old + fresh_rows, old + fresh_rows, 7);
    const FrameTable table = make_table(static_cast<std::int32_t>(fresh_rows), {}, 0, 0);
    const AttentionPlan plan = make_plan(table, {});
    Inputs in = all;
    in.rows = fresh_rows;
    in.q.erase(in.q.begin(), in.q.begin() + old * 4 * 24);
    KvView cached = all.view();
    KvView fresh = all.view();
    std::vector<std::vector<std::int32_t>> keys;
    for (std::int32_t i = 0; i < fresh_rows; ++i) {
      auto& seen = keys.emplace_back();
      for (std::int32_t j = 0; j <= old + i; ++j) seen.push_back(j);
    }
    for (std::size_t h = 0; h < 2; ++h) {
      cached.heads[h].rows = old;
      fresh.heads[h].rows = fresh_rows;
      fresh.heads[h].k = static_cast<const float*>(fresh.heads[h].k) + old * 24;
      fresh.heads[h].v = static_cast<const float*>(fresh.heads[h].v) + old * 24;
    }
    expect_close(in, run(in, &plan, cached, fresh, 2), keys, "fresh rows " + std::to_string(fresh_rows));
  }
}

TEST(Attention, DecodeOverRaggedHeadsDoesNotDependOnThreads) {
  for (const std::int64_t rows : {1, 63, 64, 65, 1023, 1024, 1025, 3000}) {
    const Inputs in({.heads = 14, .kv_heads = 2, .head_dim = 64}, 1, rows, static_cast<unsigned>(rows));
    KvView cached = in.view();
    cached.heads[1].rows = std::max<std::int64_t>(1, rows / 3);
    const Result one = run(in, nullptr, cached, {}, 1);
    EXPECT_EQ(one.out, run(in, nullptr, cached, {}, 2).out);
    EXPECT_EQ(one.out, run(in, nullptr, cached, {}, 5).out);
    for (std::int64_t kv = 0; kv < 2; ++kv) {
      Inputs head = in;  // only this KV head's queries are compared
      std::vector<std::int32_t> keys;
      for (std::int32_t j = 0; j < cached.heads[static_cast<std::size_t>(kv)].rows; ++j) keys.push_back(j);
      head.shape = {.heads = 7, .kv_heads = 1, .head_dim = 64};
      head.q.assign(in.q.begin() + kv * 448, in.q.begin() + (kv + 1) * 448);
      head.k.erase(head.k.begin(), head.k.begin() + kv * rows * 64);
      head.v.erase(head.v.begin(), head.v.begin() + kv * rows * 64);
      Result part;
      part.out.assign(one.out.begin() + kv * 448, one.out.begin() + (kv + 1) * 448);
      part.lse.assign(one.lse.begin() + kv * 7, one.lse.begin() + (kv + 1) * 7);
      expect_close(head, part, {keys}, "rows " + std::to_string(rows));
    }
  }
}

/// A checkpoint with values that are not finite must not answer as if they were zeros.
TEST(Attention, NaNReachesTheRowsThatSeeIt) {
  for (const std::int64_t rows : {1, 30}) {  // split over keys, and in tiles
    for (const int which : {0, 1, 2}) {
      Inputs in({.heads = 2, .kv_heads = 2, .head_dim = 16}, rows, 100, 9);
      auto& poisoned = which == 0 ? in.q : which == 1 ? in.k : in.v;
      poisoned[0] = kPoison;  // the first value of row 0, head 0
      const Result r = run(in, nullptr, in.view(), {}, 2);
      EXPECT_TRUE(std::isnan(r.out[0])) << rows << " rows, operand " << which;
      EXPECT_FALSE(std::isnan(r.out[16])) << "the other head";
    }
  }
}

TEST(Attention, EveryInstructionSetAgrees) {
  const HeadShape shape{.heads = 7, .kv_heads = 1, .head_dim = 40};
  const Inputs in(shape, 30, 100, 5);
  std::vector<const AttentionIsa*> sets = {&kAttentionGeneric};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&kAttentionAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) sets.push_back(&kAttentionAvx512);
  std::vector<std::vector<float>> results;
  for (const AttentionIsa* set : sets) {
    std::vector<float> o(static_cast<std::size_t>(210 * padded_dim(40)), 0.0F);
    std::vector<float> m(210, -std::numeric_limits<float>::infinity());
    std::vector<float> l(210, 0.0F);
    std::vector<float> work(static_cast<std::size_t>(tile_work(40)), kPoison);
    set->accumulate({.q = in.q.data(), .first = 70, .step = 1, .rows = 210, .group = 7, .head_dim = 40},
                    {.k = in.k.data(), .v = in.v.data(), .row_stride = 40, .first = 0, .count = 100, .causal = true},
                    {.o = o.data(), .m = m.data(), .l = l.data(), .work = work.data()});
    results.push_back(o);
  }
  for (const auto& result : results)
    for (std::size_t i = 0; i < result.size(); ++i) ASSERT_NEAR(result[i], results[0][i], 2e-5) << i;
}

}  // namespace
}  // namespace purekv
