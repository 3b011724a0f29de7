#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "purekv/error.h"

namespace purekv {
namespace {

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler sampler({}, {});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 3, 3, 2}), 1);
}

TEST(Sampler, TinyFileTemperatureIsGreedy) {
  GenerationDefaults file;
  file.do_sample = true;
  file.temperature = 1e-6;
  Sampler sampler({}, file);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sampler.next(std::vector<float>{0, 0.1F, 0}), 1);
}

TEST(Sampler, PenaltyDividesPositiveAndMultipliesNegative) {
  GenerationDefaults file;
  file.repetition_penalty = 2.0;
  Sampler sampler({}, file);
  const std::vector<std::int32_t> seen = {0, 2};
  sampler.observe(seen);
  EXPECT_EQ(sampler.next(std::vector<float>{3, 2, -1}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-1, -1.5F, -1}), 1);
}

TEST(Sampler, TopKAndTopPBoundTheChoice) {
  GenerationOptions options;
  options.temperature = 1.0;
  options.top_k = 2;
  Sampler by_k(options, {});
  for (int i = 0; i < 200; ++i) EXPECT_LE(by_k.next(std::vector<float>{1, 1, 0.9F, 0.9F}), 1);
  options.top_k.reset();
  options.top_p = 0.5;
  Sampler by_p(options, {});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(by_p.next(std::vector<float>{0, 5, 0, 0}), 1);
}

TEST(Sampler, DrawsFollowTheSoftmaxAndTheSeed) {
  GenerationOptions options;
  options.temperature = 1.0;
  options.seed = 7;
  const std::vector<float> logits = {0, std::log(3.0F)};
  Sampler a(options, {});
  Sampler b(options, {});
  int ones = 0;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    const std::int32_t id = a.next(logits);
    EXPECT_EQ(id, b.next(logits));
    ones += id;
  }
  EXPECT_NEAR(ones / static_cast<double>(kDraws), 0.75, 0.03);
}

TEST(Sampler, NotFiniteIsAnInputError) {
  Sampler sampler({}, {});
  try {
    sampler.next(std::vector<float>{0, std::numeric_limits<float>::quiet_NaN()});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
  }
}

}  // namespace
}  // namespace purekv
