#include "kernels/join_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/random.h"

namespace purekv {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

TEST(JoinScores, AProductAsItIs) {
  const std::vector<float> a = {1, 2, 3, /**/ 4, 5, 6};
  const std::vector<float> b = {2, 2, 2, 9, /**/ 3, -1, 0, 9};
  const std::vector<std::uint8_t> kind = {0, kForcedRow, kVisualRow};
  std::vector<float> score(6, kPoison);
  JoinScoresParams p{.kv_heads = 2,
                     .columns = 3,
                     .kind = kind.data(),
                     .terms = {{.a = a.data(), .b = b.data(), .a_stride = 3, .b_stride = 4}},
                     .count = 1,
                     .score = score.data()};
  join_scores({}, p);
  EXPECT_EQ(score, (std::vector<float>{2, kInf, 6, 12, kInf, 0}));
  p.terms[0].b = nullptr;
  join_scores({}, p);
  EXPECT_EQ(score, (std::vector<float>{1, kInf, 3, 4, kInf, 6}));
}

TEST(JoinScores, TheLargestShareOfItsSumOverVisualRows) {
  constexpr std::int64_t kHeads = 3;
  constexpr std::int64_t kColumns = 200;
  std::vector<std::vector<float>> data;
  for (unsigned i = 0; i < 6; ++i) {
    data.push_back(random_floats(kHeads * (kColumns + i), 40 + i));
    for (float& x : data.back()) x = std::fabs(x);
  }
  std::vector<std::uint8_t> kind;
  for (std::int64_t j = 0; j < kColumns; ++j)
    kind.push_back(static_cast<std::uint8_t>((j % 5 != 0 ? kVisualRow : 0) | (j % 50 == 7 ? kForcedRow : 0)));
  for (int count = 1; count <= 3; ++count) {
    std::vector<float> score(kHeads * kColumns, kPoison);
    JoinScoresParams p{
        .kv_heads = kHeads, .columns = kColumns, .kind = kind.data(), .normalise = true, .score = score.data()};
    for (std::size_t t = 0; t < static_cast<std::size_t>(count); ++t) {
      const auto i = static_cast<std::int64_t>(2 * t);
      p.terms[p.count++] = {data[2 * t].data(), data[2 * t + 1].data(), kColumns + i, kColumns + i + 1};
    }
    join_scores({.threads = 2}, p);
    for (std::int64_t h = 0; h < kHeads; ++h)
      for (std::int64_t j = 0; j < kColumns; ++j) {
        const auto visual = [&](std::int64_t row) { return (kind[static_cast<std::size_t>(row)] & kVisualRow) != 0; };
        double want = 0;
        for (int t = 0; t < count && visual(j); ++t) {
          const ScoreTerm& term = p.terms[t];
          const auto value = [&](std::int64_t row) {
            return static_cast<double>(term.a[h * term.a_stride + row] * term.b[h * term.b_stride + row]);
          };
          double sum = 0;
          for (std::int64_t row = 0; row < kColumns; ++row) sum += visual(row) ? value(row) : 0;
          want = std::max(want, value(j) / sum);
        }
        const float got = score[static_cast<std::size_t>(h * kColumns + j)];
        if (j % 50 == 7)
          EXPECT_EQ(got, kInf);
        else
          ASSERT_NEAR(got, want, 1e-6 * want) << h << ' ' << j;
      }
  }
}

TEST(JoinScores, ATermWithoutASumCountsAsNothing) {
  const std::vector<float> zero(4, 0.0F);
  const std::vector<float> ones(4, 1.0F);
  const std::vector<std::uint8_t> kind = {kVisualRow, kVisualRow, 0, kVisualRow};
  std::vector<float> score(4, kPoison);
  JoinScoresParams p{
      .kv_heads = 1, .columns = 4, .kind = kind.data(), .count = 2, .normalise = true, .score = score.data()};
  p.terms[0] = {zero.data(), ones.data(), 4, 4};
  p.terms[1] = {zero.data(), ones.data(), 4, 4};
  join_scores({}, p);
  EXPECT_EQ(score, (std::vector<float>(4, 0.0F)));
}

}  // namespace
}  // namespace purekv
