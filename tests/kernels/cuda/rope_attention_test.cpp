#include "kernels/rope_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "device/cuda/cuda_device.h"
#include "kernels/attention.h"
#include "kernels/cuda/ops.h"
#include "kernels/rope.h"
#include "sparse/plan.h"
#include "support/cuda.h"

namespace purekv {
namespace {

constexpr double kTolerance = 5e-5;  ///< NMSE; q, k, probabilities and the result are rounded to bf16

class CudaRopeAttention : public CudaTest {
 protected:
  /// A fused projection on both sides, `pad` elements behind each row.
  struct Problem {
    std::int64_t heads, head_dim, rows, pad;
    std::vector<float> qkv, cos, sin;
    Buffer device_qkv, device_cos, device_sin;

    [[nodiscard]] std::int64_t hidden() const { return heads * head_dim; }
    [[nodiscard]] std::int64_t stride() const { return 3 * hidden() + pad; }
  };

  Problem make(std::int64_t heads, std::int64_t head_dim, std::int64_t rows, std::int64_t pad) {
    Problem p{heads, head_dim, rows, pad, {}, {}, {}, {}, {}, {}};
    p.qkv = normal_floats(rows * p.stride(), random_, 1.5F);
    for (const float angle : normal_floats(rows * head_dim / 2, random_, 3)) {
      p.cos.push_back(std::cos(angle));
      p.sin.push_back(std::sin(angle));
    }
    p.device_qkv = to_device(context_, round_to_bf16(p.qkv));
    p.device_cos = to_device(context_, p.cos);
    p.device_sin = to_device(context_, p.sin);
    return p;
  }

  /// Rows between `hidden` and the stride of the output must stay NaN.
  std::vector<float> on_device(const Problem& p, const std::vector<std::int32_t>& starts, std::int64_t out_pad) {
    const AttentionPlan plan = make_segment_plan(starts, plan_block_rows(context_));
    const std::int64_t stride = p.hidden() + out_pad;
    const Buffer out = poisoned(context_, p.rows * stride * 2);
    const RopeAttentionParams params{.heads = p.heads,
                                     .head_dim = p.head_dim,
                                     .scale = scale(p),
                                     .qkv = {p.device_qkv.data(), DType::kBF16, p.rows, 3 * p.hidden(), p.stride()},
                                     .cos = p.device_cos.as<float>(),
                                     .sin = p.device_sin.as<float>(),
                                     .plan = &plan,
                                     .out = {out.data(), DType::kBF16, p.rows, p.hidden(), stride}};
    const bool takes = cuda::rope_attention_takes(context_, params);
    EXPECT_TRUE(context_.cuda->capability != 90 || takes == is_meant(p, starts, out_pad))
        << "its own kernel: " << takes;
    rope_attention(context_, params);
    const std::vector<float> all = widen(to_host<std::uint16_t>(context_, out.data(), p.rows * stride));
    std::vector<float> rows;
    for (std::int64_t i = 0; i < p.rows * stride; ++i)
      if (i % stride < p.hidden())
        rows.push_back(all[static_cast<std::size_t>(i)]);
      else
        EXPECT_TRUE(std::isnan(all[static_cast<std::size_t>(i)])) << "between rows";
    return rows;
  }

  /// What the tower's windows are: at most 64 rows of whole 16 bytes, heads of 64 or 80.
  static bool is_meant(const Problem& p, const std::vector<std::int32_t>& starts, std::int64_t out_pad) {
    for (std::size_t i = 0; i + 1 < starts.size(); ++i)
      if (starts[i + 1] - starts[i] > 64) return false;
    return (p.head_dim == 64 || p.head_dim == 80) && p.pad % 8 == 0 && out_pad % 8 == 0;
  }

  std::vector<float> on_host(Problem& p, const std::vector<std::int32_t>& starts) {
    const AttentionPlan plan = make_segment_plan(starts, plan_block_rows(cpu_));
    std::vector<float> out(static_cast<std::size_t>(p.rows * p.hidden()));
    std::vector<float> qkv = p.qkv;
    rope_attention(cpu_, {.heads = p.heads,
                          .head_dim = p.head_dim,
                          .scale = scale(p),
                          .qkv = {qkv.data(), DType::kF32, p.rows, 3 * p.hidden(), p.stride()},
                          .cos = p.cos.data(),
                          .sin = p.sin.data(),
                          .plan = &plan,
                          .out = {out.data(), DType::kF32, p.rows, p.hidden(), p.hidden()}});
    return out;
  }

  static float scale(const Problem& p) { return 1.0F / std::sqrt(static_cast<float>(p.head_dim)); }

  std::mt19937 random_{11};
};

TEST_F(CudaRopeAttention, WindowsAndWholeSlicesFollowTheCpu) {
  const std::vector<std::int32_t> windows = {0, 64, 128, 160, 161, 193, 257, 281, 297, 330, 393};
  const std::vector<std::int32_t> slices = {0, 65, 130, 400};
  for (const std::vector<std::int32_t>& starts : {windows, slices, {0, 1}, {0, 64}, {0, 16, 32, 48}})
    for (const std::int64_t head_dim : {64, 80, 72, 40, 128})
      for (const auto& [heads, pad] : {std::pair{1, 0}, {2, 8}, {5, 0}, {16, 24}, {3, 1}}) {
        Problem p = make(heads, head_dim, starts.back(), pad);
        SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim << " pad " << pad << " rows " << p.rows);
        EXPECT_LT(nmse(on_device(p, starts, pad), on_host(p, starts)), kTolerance);
      }
}

/// Sharp softmax, and the same bits again on the same inputs.
TEST_F(CudaRopeAttention, LargeLogitsAndSameBits) {
  const std::vector<std::int32_t> starts = {0, 64, 100, 164};
  Problem p = make(4, 80, starts.back(), 0);
  for (float& x : p.qkv) x *= 6;
  p.device_qkv = to_device(context_, round_to_bf16(p.qkv));
  const std::vector<float> once = on_device(p, starts, 0);
  EXPECT_LT(nmse(once, on_host(p, starts)), 400 * kTolerance) << "logits of hundreds: their rounding decides ties";
  EXPECT_EQ(once, on_device(p, starts, 0));
}

/// A NaN reaches the rows that see it and no others, neither does what lies behind a short window.
TEST_F(CudaRopeAttention, NaNStaysInItsWindow) {
  const std::vector<std::int32_t> starts = {0, 40, 104};
  for (const std::int64_t part : {0, 1, 2}) {
    Problem p = make(2, 80, starts.back(), 0);
    const std::int64_t row = 50;
    p.qkv[static_cast<std::size_t>(row * p.stride() + part * p.hidden() + 3)] = std::numeric_limits<float>::quiet_NaN();
    p.device_qkv = to_device(context_, round_to_bf16(p.qkv));
    const std::vector<float> out = on_device(p, starts, 0);
    for (std::int64_t r = 0; r < p.rows; ++r)
      for (std::int64_t h = 0; h < p.heads; ++h) {
        const bool sees = h == 0 && (part == 0 ? r == row : r >= starts[1]);
        const float x = out[static_cast<std::size_t>(r * p.hidden() + h * p.head_dim + 3)];
        EXPECT_EQ(std::isnan(x), sees) << "part " << part << " row " << r << " head " << h;
      }
  }
}

}  // namespace
}  // namespace purekv
