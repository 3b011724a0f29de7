#include "kernels/choose_token.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "device/context.h"

namespace purekv {
namespace {

ChooseTokenParams sampled(float temperature, float top_p = 1, std::int64_t top_k = 0) {
  ChooseTokenParams p;
  p.temperature = temperature;
  p.top_p = top_p;
  p.top_k = top_k;
  return p;
}

ChooseTokenParams penalised(std::vector<std::uint8_t>& seen, float penalty) {
  ChooseTokenParams p;
  p.seen = seen.data();
  p.penalty = penalty;
  return p;
}

/// One sequence's choice.
std::int32_t choose(const std::vector<float>& logits, ChooseTokenParams p = {}, double uniform = 0) {
  std::int32_t id = -99;
  const auto vocab = static_cast<std::int64_t>(logits.size());
  p.logits = {logits.data(), DType::kF32, 1, vocab, vocab};
  p.uniform = &uniform;
  p.ids = &id;
  choose_token({}, p);
  return id;
}

TEST(ChooseToken, GreedyTakesTheLowestOfEquals) {
  EXPECT_EQ(choose({1, 5, 2, 5}), 1);
  EXPECT_EQ(choose({-0.0F, 0.0F}), 0);
  EXPECT_EQ(choose({-3}), 0);
}

TEST(ChooseToken, NamesTheFirstLogitThatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(choose({1, 2, NAN, -kInfinity}), -3);
  EXPECT_EQ(choose({kInfinity, 1}, sampled(1)), -1);
}

TEST(ChooseToken, PenaltyActsOnSeenAndMarksTheChosen) {
  std::vector<std::uint8_t> seen = {1, 0, 0};
  EXPECT_EQ(choose({4, 3, -9}, penalised(seen, 2)), 1);
  EXPECT_EQ(seen, (std::vector<std::uint8_t>{1, 1, 0}));
  seen = {1, 0, 0};
  EXPECT_EQ(choose({-1, -1.5F, -9}, penalised(seen, 2)), 1);  // a negative logit is multiplied
}

/// Masses 0.5, 0.25, 0.125, 0.125 in the order of ids 2, 0, 1, 3.
std::vector<float> halves() {
  const float ln2 = std::log(2.0F);
  return {-2 * ln2, -3 * ln2, -ln2, -3 * ln2};
}

TEST(ChooseToken, DrawsByRunningMass) {
  const ChooseTokenParams p = sampled(1);
  EXPECT_EQ(choose(halves(), p, 0.0), 2);
  EXPECT_EQ(choose(halves(), p, 0.49), 2);
  EXPECT_EQ(choose(halves(), p, 0.51), 0);
  EXPECT_EQ(choose(halves(), p, 0.80), 1);
  EXPECT_EQ(choose(halves(), p, 0.99), 3);
}

TEST(ChooseToken, TopPAndTopKShortenTheOrder) {
  EXPECT_EQ(choose(halves(), sampled(1, 0.6F), 0.99), 0);
  EXPECT_EQ(choose(halves(), sampled(1, 0), 0.99), 2);
  EXPECT_EQ(choose(halves(), sampled(1, 1, 3), 0.99), 1);
  EXPECT_EQ(choose(halves(), sampled(1, 1, 9), 0.99), 3);
  EXPECT_EQ(choose(halves(), sampled(0.01F), 0.99), 2);
}

TEST(ChooseToken, SequencesAreApart) {
  const std::vector<float> logits = {1, 9, 3, 4, 5, NAN};
  std::vector<std::int32_t> ids(2);
  std::vector<std::uint8_t> seen(6);
  ChooseTokenParams p = penalised(seen, 1);
  p.logits = {logits.data(), DType::kF32, 2, 3, 3};
  p.ids = ids.data();
  choose_token({}, p);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, -3}));
  EXPECT_EQ(seen, (std::vector<std::uint8_t>{0, 1, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace purekv
