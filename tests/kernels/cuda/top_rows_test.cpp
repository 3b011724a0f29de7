#include "kernels/top_rows.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

enum class Scores { kNormal, kTies, kSpecial, kEqual, kMostlyNan };

std::vector<float> make_scores(Scores kind, std::int64_t count, std::mt19937& random) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kSpecial[] = {kInf, kNan, -kInf, -0.0F, 0.0F, -kNan, 1e-40F, -1e-40F};
  std::vector<float> scores = normal_floats(count, random);
  for (float& x : scores) {
    const auto draw = static_cast<std::uint32_t>(random());
    if (kind == Scores::kTies) x = static_cast<float>(draw % 20);
    if (kind == Scores::kSpecial && draw % 3 != 0) x = kSpecial[draw / 3 % 8];
    if (kind == Scores::kEqual) x = 1;
    if (kind == Scores::kMostlyNan && draw % 10 < 6) x = kNan;
  }
  return scores;
}

class CudaTopRows : public CudaTest {
 protected:
  /// Every count of `rows` scores a head, exactly as the CPU ranks them, and nothing past the count is written.
  void expect_equal(Scores kind, std::int64_t heads, std::int64_t rows) {
    const std::int64_t stride = rows + 3;
    const std::vector<float> scores = make_scores(kind, heads * stride, random_);
    const Buffer device = to_device(context_, scores);
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, rows / 5, rows / 2, rows - 1, rows}) {
      const std::int64_t slot_stride = count + 2;
      std::vector<std::int32_t> want(static_cast<std::size_t>(heads * slot_stride), -1);
      const Buffer out = poisoned(context_, heads * slot_stride * 4);
      TopRowsParams p{.score = scores.data(),
                      .heads = heads,
                      .rows = rows,
                      .stride = stride,
                      .count = count,
                      .slots = want.data(),
                      .slot_stride = slot_stride};
      top_rows(cpu_, p);
      p.score = device.as<float>();
      p.slots = out.as<std::int32_t>();
      top_rows(context_, p);
      ASSERT_EQ(to_host<std::int32_t>(context_, out.data(), heads * slot_stride), want)
          << "kind " << static_cast<int>(kind) << ", " << rows << " rows, count " << count;
    }
  }
  std::mt19937 random_{5};
};

TEST_F(CudaTopRows, EqualsTheCpuAroundTheEdgesOfABlock) {
  for (const std::int64_t rows : {1, 2, 31, 511, 4095, 4096, 4097, 12289})
    for (const Scores kind : {Scores::kNormal, Scores::kTies, Scores::kSpecial, Scores::kEqual, Scores::kMostlyNan})
      for (const std::int64_t heads : {1, 5}) expect_equal(kind, heads, rows);
}

TEST_F(CudaTopRows, MostKeyHeads) {
  for (const std::int64_t rows : {333, 4097, 20000})
    for (const Scores kind : {Scores::kNormal, Scores::kTies}) expect_equal(kind, 32, rows);
}

TEST_F(CudaTopRows, ManyRows) {
  expect_equal(Scores::kNormal, 4, 131072);
  expect_equal(Scores::kTies, 2, 1000003);
}

}  // namespace
}  // namespace purekv
