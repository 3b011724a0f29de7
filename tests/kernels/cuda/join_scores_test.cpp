#include "kernels/join_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

constexpr std::int64_t kHeads = 3;

class CudaJoinScores : public CudaTest {
 protected:
  /// Terms of |normal| values; the third term is all zero, the second has no second factor.
  void expect_near(bool normalise, std::int64_t columns, int count) {
    std::mt19937 random(static_cast<unsigned>(columns + count));
    std::vector<std::uint8_t> kind(static_cast<std::size_t>(columns));
    for (std::uint8_t& x : kind)
      x = static_cast<std::uint8_t>((random() % 5 != 0 ? kVisualRow : 0) | (random() % 50 == 0 ? kForcedRow : 0));
    std::vector<std::vector<float>> host;
    std::vector<Buffer> device;
    std::vector<float> want(static_cast<std::size_t>(kHeads * columns), std::numeric_limits<float>::quiet_NaN());
    const Buffer device_kind = to_device(context_, kind);
    const Buffer out = poisoned(context_, kHeads * columns * 4);
    JoinScoresParams p{.kv_heads = kHeads,
                       .columns = columns,
                       .kind = kind.data(),
                       .count = count,
                       .normalise = normalise,
                       .score = want.data()};
    JoinScoresParams q = p;
    q.kind = device_kind.as<std::uint8_t>();
    q.score = out.as<float>();
    for (int i = 0; i < 2 * count; ++i) {
      host.push_back(normal_floats(kHeads * (columns + i), random));
      for (float& x : host.back()) x = i == 4 ? 0 : std::fabs(x);
      device.push_back(to_device(context_, host.back()));
    }
    for (std::size_t t = 0; t < static_cast<std::size_t>(count); ++t) {
      const std::int64_t stride = columns + static_cast<std::int64_t>(2 * t);
      p.terms[t] = {host[2 * t].data(), t == 1 ? nullptr : host[2 * t + 1].data(), stride, stride + 1};
      q.terms[t] = {device[2 * t].as<float>(), t == 1 ? nullptr : device[2 * t + 1].as<float>(), stride, stride + 1};
    }
    join_scores(cpu_, p);
    join_scores(context_, q);
    const std::vector<float> got = to_host<float>(context_, out.data(), kHeads * columns);
    for (std::size_t i = 0; i < want.size(); ++i)
      if (std::isinf(want[i]))
        ASSERT_EQ(got[i], want[i]);
      else
        ASSERT_NEAR(got[i], want[i], 1e-6F * std::fabs(want[i])) << columns << " columns, " << count << " terms";
    join_scores(context_, q);
    EXPECT_EQ(to_host<float>(context_, out.data(), kHeads * columns), got) << "the same bits from run to run";
  }
};

TEST_F(CudaJoinScores, EqualsTheCpu) {
  for (const std::int64_t columns : {1, 2, 255, 256, 257, 8191, 30001}) {
    expect_near(false, columns, 1);
    for (int count = 1; count <= 3; ++count) expect_near(true, columns, count);
  }
}

}  // namespace
}  // namespace purekv
