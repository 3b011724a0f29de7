#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/cuda/attention_sm80.h"
#include "sparse/plan.h"
#include "support/cuda.h"
#include "support/tables.h"

namespace purekv {
namespace {

constexpr double kTolerance = 5e-5;  ///< NMSE; probabilities and the output are rounded to bf16, 3e-6 each
constexpr double kLseTolerance = 1e-4;
constexpr std::int32_t kWhole = 1 << 20;  ///< plan blocks as long as their rows allow

using Kernel = void (*)(const Context&, const AttentionParams&);

struct NamedKernel {
  std::string name;
  Kernel run;
};

/// What the device chooses, and the kernel that every device has: on Hopper they differ.
const std::vector<NamedKernel> kKernels = {{"chosen", attention}, {"sm80", cuda::attention_sm80}};

struct Setting {
  HeadShape shape;
  std::int64_t rows = 0;
  std::int64_t fresh = 0;                 ///< rows of the new keys
  std::vector<std::int64_t> cached = {};  ///< rows of each KV head; empty: none
  const AttentionPlan* plan = nullptr;
  float key_scale = 1;
  std::int64_t pad = 0, shift = 0;  ///< elements between rows and before the first one
};

/// One operand on both sides, rounded to bf16.
struct Operand {
  std::vector<float> values;
  Buffer buffer;
  Operand(const Context& context, std::int64_t count, std::mt19937& random, float scale = 1)
      : values(normal_floats(count, random, scale)), buffer(to_device(context, round_to_bf16(values))) {}
};

struct Problem {
  Setting s;
  std::int64_t width, stride, key_stride, cached_rows;
  Operand q, k, v, cached_k, cached_v;

  Problem(const Context& context, const Setting& setting, std::mt19937& random)
      : s(setting),
        width(s.shape.heads * s.shape.head_dim),
        stride(width + s.pad),
        key_stride(s.shape.head_dim + s.pad),
        cached_rows(s.cached.empty() ? 0 : *std::max_element(s.cached.begin(), s.cached.end())),
        q(context, s.shift + s.rows * stride, random),
        k(context, s.shift + s.shape.kv_heads * s.fresh * key_stride, random, s.key_scale),
        v(context, s.shift + s.shape.kv_heads * s.fresh * key_stride, random),
        cached_k(context, s.shape.kv_heads * cached_rows * s.shape.head_dim, random, s.key_scale),
        cached_v(context, s.shape.kv_heads * cached_rows * s.shape.head_dim, random) {}

  /// `data(operand)` is its memory on one side, `type` its element type there.
  template <class Data>
  [[nodiscard]] AttentionParams params(DType type, Data data, void* out, float* lse) const {
    const auto size = static_cast<std::int64_t>(size_of(type));
    const auto at = [&](const Operand& x, std::int64_t i) { return static_cast<const std::byte*>(data(x)) + i * size; };
    AttentionParams p{.shape = s.shape,
                      .scale = 1 / std::sqrt(static_cast<float>(s.shape.head_dim)),
                      .q = {at(q, s.shift), type, s.rows, width, stride},
                      .cached = {},
                      .fresh = {},
                      .plan = s.plan,
                      .out = {static_cast<std::byte*>(out) + s.shift * size, type, s.rows, width, stride},
                      .lse = lse};
    p.fresh.dtype = p.cached.dtype = type;
    for (std::int64_t h = 0; h < s.shape.kv_heads; ++h) {
      if (s.plan != nullptr) {
        const std::int64_t i = s.shift + h * s.fresh * key_stride;
        p.fresh.heads.push_back({at(k, i), at(v, i), s.fresh, key_stride});
      }
      if (s.cached.empty()) continue;
      const std::int64_t i = h * cached_rows * s.shape.head_dim;
      p.cached.heads.push_back(
          {at(cached_k, i), at(cached_v, i), s.cached[static_cast<std::size_t>(h)], s.shape.head_dim});
    }
    return p;
  }
};

struct Result {
  std::vector<float> out, lse;  ///< out without the padding
};

class AttentionCuda : public CudaTest {
 protected:
  std::mt19937 random_{11};

  Result run(const Problem& p, Kernel kernel) {
    const std::int64_t elements = p.s.shift + p.s.rows * p.stride;
    const Buffer out = poisoned(context_, elements * 2);
    const Buffer lse = poisoned(context_, p.s.rows * p.s.shape.heads * 4);
    kernel(context_, p.params(
                         DType::kBF16, [](const Operand& x) { return x.buffer.data(); }, out.data(), lse.as<float>()));
    const auto bits = to_host<std::uint16_t>(context_, out.data(), elements);
    Result r;
    for (std::int64_t i = 0; i < elements; ++i) {
      const std::int64_t at = i - p.s.shift;
      if (at >= 0 && at % p.stride < p.width)
        r.out.push_back(to_float(BFloat16{bits[static_cast<std::size_t>(i)]}));
      else
        EXPECT_EQ(bits[static_cast<std::size_t>(i)], 0xFFFF) << "outside of the rows";
    }
    r.lse = to_host<float>(context_, lse.data(), p.s.rows * p.s.shape.heads);
    return r;
  }

  Result run_on_cpu(const Problem& p) {
    std::vector<float> out(static_cast<std::size_t>(p.s.shift + p.s.rows * p.stride), NAN);
    Result r;
    r.lse.resize(static_cast<std::size_t>(p.s.rows * p.s.shape.heads), NAN);
    attention(cpu_, p.params(
                        DType::kF32, [](const Operand& x) -> const void* { return x.values.data(); }, out.data(),
                        r.lse.data()));
    for (std::int64_t i = 0; i < p.s.rows; ++i)
      for (std::int64_t c = 0; c < p.width; ++c)
        r.out.push_back(out[static_cast<std::size_t>(p.s.shift + i * p.stride + c)]);
    return r;
  }

  void expect_twin(const Setting& setting, const std::string& what) {
    const Problem p(context_, setting, random_);
    const Result want = run_on_cpu(p);
    for (const NamedKernel& kernel : kKernels) {
      SCOPED_TRACE(kernel.name + ": " + what);
      const Result got = run(p, kernel.run);
      EXPECT_LE(nmse(got.out, want.out), kTolerance);
      for (std::size_t i = 0; i < got.lse.size(); ++i) {
        if (std::isinf(want.lse[i]))
          ASSERT_EQ(got.lse[i], want.lse[i]);
        else
          ASSERT_NEAR(got.lse[i], want.lse[i], kLseTolerance * (1 + std::abs(want.lse[i]))) << i;
      }
    }
  }
};

AttentionPlan causal_plan(std::int32_t rows) { return make_plan(make_table(rows, {}, 0, 0), {.block_rows = kWhole}); }

TEST_F(AttentionCuda, EveryPatternOnEveryEdge) {
  for (const NamedTable& edge : edge_tables())
    for (const Pattern pattern : {Pattern::kDense, Pattern::kSpatialTemporal, Pattern::kSpatial, Pattern::kTemporal,
                                  Pattern::kLocal, Pattern::kAtrous})
      for (const std::int32_t block_rows : {64, kWhole}) {
        const AttentionPlan plan =
            make_plan(edge.table, {.pattern = pattern, .local_window = 9, .atrous_rate = 4, .block_rows = block_rows});
        expect_twin({.shape = {14, 2, 64}, .rows = edge.table.rows, .fresh = edge.table.rows, .plan = &plan},
                    edge.name + ", pattern " + std::to_string(static_cast<int>(pattern)));
      }
}

TEST_F(AttentionCuda, AnyGroupAndHeadDim) {
  const FrameTable table = make_table(5, {{4, 3, 7}, {6, 5, 9}}, 3, 66);
  const AttentionPlan plan = make_plan(table, {.pattern = Pattern::kSpatialTemporal, .block_rows = kWhole});
  for (const std::int64_t head_dim : {2, 16, 24, 64, 72, 80, 90, 96, 112, 128, 130, 192, 256})
    for (const std::int64_t group : {1, 2, 7, 16})
      expect_twin({.shape = {2 * group, 2, head_dim}, .rows = table.rows, .fresh = table.rows, .plan = &plan},
                  "head_dim " + std::to_string(head_dim) + ", group " + std::to_string(group));
}

TEST_F(AttentionCuda, RowsAtAnyStrideAndAddress) {
  const FrameTable table = make_table(3, {{3, 5, 7}}, 0, 20);
  const AttentionPlan plan = make_plan(table, {.pattern = Pattern::kSpatialTemporal, .block_rows = kWhole});
  for (const std::int64_t head_dim : {64, 80, 128})
    for (const auto& [pad, shift] : {std::pair{8, 8}, {6, 0}, {8, 1}, {3, 5}})
      expect_twin({.shape = {7, 1, head_dim},
                   .rows = table.rows,
                   .fresh = table.rows,
                   .plan = &plan,
                   .pad = pad,
                   .shift = shift},
                  "pad " + std::to_string(pad) + ", shift " + std::to_string(shift));
}

TEST_F(AttentionCuda, CachedRowsBesideNewOnes) {
  for (const std::int32_t rows : {1, 2, 9, 65, 300}) {
    const AttentionPlan plan = causal_plan(rows);
    for (const std::vector<std::int64_t>& cached :
         {std::vector<std::int64_t>{1000, 333}, {5000, 0}, {1, 64}, {63, 65}}) {
      const Setting both{.shape = {14, 2, 128}, .rows = rows, .fresh = rows, .cached = cached, .plan = &plan};
      expect_twin(both, "both, " + std::to_string(rows) + " rows");
      Setting alone = both;
      alone.plan = nullptr;
      if (cached[1] > 0) expect_twin(alone, "cached rows alone, " + std::to_string(rows) + " rows");
    }
  }
}

TEST_F(AttentionCuda, MoreHeadsThanALaunchTakes) {
  const AttentionPlan plan = causal_plan(90);
  expect_twin({.shape = {40, 40, 80}, .rows = 90, .fresh = 90, .plan = &plan}, "40 KV heads");
}

TEST_F(AttentionCuda, LargeKeysDoNotOverflow) {
  const FrameTable table = make_table(3, {{4, 6, 7}}, 0, 80);
  const AttentionPlan plan = make_plan(table, {.pattern = Pattern::kSpatialTemporal, .block_rows = kWhole});
  for (const float scale : {60.0F, 3e4F})
    expect_twin({.shape = {7, 1, 128}, .rows = table.rows, .fresh = table.rows, .plan = &plan, .key_scale = scale},
                "keys times " + std::to_string(scale));
}

TEST_F(AttentionCuda, LongKeysAreSplitAndMergedAlikeOnEveryRun) {
  for (const std::int32_t rows : {1, 64}) {
    AttentionPlan plan;
    plan.blocks = {{.first = 0, .count = rows, .range_begin = 0, .range_end = 2}};
    plan.ranges = {{.first = 0, .count = 17000}, {.first = 17001, .count = 3000}};
    const Setting setting{.shape = {14, 2, 128}, .rows = rows, .fresh = 20001, .plan = &plan};
    expect_twin(setting, "split, " + std::to_string(rows) + " rows");
    const Problem p(context_, setting, random_);
    for (const NamedKernel& kernel : kKernels) {
      const Result one = run(p, kernel.run);
      const Result two = run(p, kernel.run);
      EXPECT_EQ(one.out, two.out) << kernel.name;
      EXPECT_EQ(one.lse, two.lse) << kernel.name;
    }
  }
}

TEST_F(AttentionCuda, RowsThatSeeNothingAreZero) {
  AttentionPlan plan;
  plan.blocks = {{.first = 0, .count = 50}, {.first = 50, .count = 50, .range_begin = 0, .range_end = 41}};
  for (std::int32_t i = 0; i < 40; ++i) plan.ranges.push_back({.first = i * 10, .count = 1 + i % 9});  // many and short
  plan.ranges.push_back({.first = 500, .count = 0});
  const Setting setting{.shape = {4, 2, 128}, .rows = 100, .fresh = 600, .plan = &plan};
  expect_twin(setting, "first half sees nothing");
  for (const NamedKernel& kernel : kKernels) {
    const Result got = run(Problem(context_, setting, random_), kernel.run);
    for (std::size_t i = 0; i < 50 * 4 * 128; ++i) ASSERT_EQ(got.out[i], 0) << kernel.name;
    for (std::size_t i = 0; i < 50; ++i) ASSERT_EQ(got.lse[i], -std::numeric_limits<float>::infinity()) << kernel.name;
  }
}

TEST_F(AttentionCuda, NaNReachesTheRowsThatSeeIt) {
  for (const std::int32_t rows : {1, 30}) {
    const AttentionPlan plan = causal_plan(rows);
    for (const int which : {0, 1, 2}) {
      Problem p(context_, {.shape = {2, 2, 64}, .rows = rows, .fresh = rows, .plan = &plan}, random_);
      Operand& x = which == 0 ? p.q : which == 1 ? p.k : p.v;
      x.values[0] = std::numeric_limits<float>::quiet_NaN();  // row 0, head 0
      x.buffer = to_device(context_, round_to_bf16(x.values));
      for (const NamedKernel& kernel : kKernels) {
        const Result got = run(p, kernel.run);
        EXPECT_TRUE(std::isnan(got.out[0])) << kernel.name << ", operand " << which;
        EXPECT_FALSE(std::isnan(got.out[64])) << "the other head";
      }
    }
  }
}

TEST_F(AttentionCuda, AKeptPlanFitsTheNextShape) {
  const AttentionPlan plan = causal_plan(200);
  for (const HeadShape& shape : {HeadShape{14, 2, 128}, {6, 2, 128}, {14, 2, 64}, {14, 2, 128}})
    expect_twin({.shape = shape, .rows = 200, .fresh = 200, .plan = &plan}, "one plan, other heads");
}

}  // namespace
}  // namespace purekv
