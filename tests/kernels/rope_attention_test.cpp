#include "kernels/rope_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/rows_reference.h"
#include "sparse/plan.h"
#include "support/random.h"

namespace purekv {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

/// A fused projection with room behind each row.
struct Problem {
  std::int64_t heads, head_dim, rows, pad;
  std::vector<float> qkv, cos, sin;

  Problem(std::int64_t h, std::int64_t d, std::int64_t r, std::int64_t p)
      : heads(h), head_dim(d), rows(r), pad(p), qkv(random_floats(r * (3 * h * d + p), 5)) {
    for (const float angle : random_floats(r * d / 2, 6)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }
  [[nodiscard]] std::int64_t hidden() const { return heads * head_dim; }
  [[nodiscard]] MatrixView view() { return {qkv.data(), DType::kF32, rows, 3 * hidden(), 3 * hidden() + pad}; }
};

/// Taken apart and rotated by the slow twin, then attended.
std::vector<float> apart(Problem p, const AttentionPlan& plan) {
  const auto size = static_cast<std::size_t>(p.rows * p.hidden());
  std::vector<float> q(size);
  std::vector<float> k(size);
  std::vector<float> v(size);
  std::vector<float> out(size, kPoison);
  const std::int64_t wide = p.hidden();
  rope_split_reference({.shape = {p.heads, p.heads, p.head_dim},
                        .qkv = p.view(),
                        .cos = p.cos.data(),
                        .sin = p.sin.data(),
                        .q = {q.data(), DType::kF32, p.rows, wide, wide},
                        .keys = k.data(),
                        .values = v.data(),
                        .kv_dtype = DType::kF32,
                        .head_stride = p.rows * p.head_dim,
                        .row_stride = p.head_dim});
  KvView fresh{.dtype = DType::kF32, .heads = {}};
  for (std::int64_t h = 0; h < p.heads; ++h) {
    const std::int64_t at = h * p.rows * p.head_dim;
    fresh.heads.push_back({k.data() + at, v.data() + at, p.rows, p.head_dim});
  }
  attention({.threads = 1}, {.shape = {p.heads, p.heads, p.head_dim},
                             .scale = 0.3F,
                             .q = {q.data(), DType::kF32, p.rows, wide, wide},
                             .cached = {},
                             .fresh = fresh,
                             .plan = &plan,
                             .out = {out.data(), DType::kF32, p.rows, wide, wide}});
  return out;
}

TEST(RopeAttention, EqualsRotationAndAttentionApart) {
  for (const std::int64_t head_dim : {2, 16, 64, 72, 80})
    for (const std::vector<std::int32_t>& starts :
         {std::vector<std::int32_t>{0, 64, 96, 97, 113}, {0, 1}, {0, 200}, {0, 8, 16}}) {
      const AttentionPlan plan = make_segment_plan(starts, 64);
      Problem p(3, head_dim, starts.back(), head_dim == 64 ? 5 : 0);
      const std::vector<float> want = apart(p, plan);
      std::vector<float> out(want.size(), kPoison);
      rope_attention({.threads = 2}, {.heads = p.heads,
                                      .head_dim = head_dim,
                                      .scale = 0.3F,
                                      .qkv = p.view(),
                                      .cos = p.cos.data(),
                                      .sin = p.sin.data(),
                                      .plan = &plan,
                                      .out = {out.data(), DType::kF32, p.rows, p.hidden(), p.hidden()}});
      for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], want[i], 1e-5) << "head_dim " << head_dim;
    }
}

}  // namespace
}  // namespace purekv
