#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "purekv/error.h"

namespace purekv {
namespace {

/// One choice after the other from logits in host memory.
class Chooser {
 public:
  Chooser(const GenerationOptions& options, const GenerationDefaults& defaults, std::int64_t vocab = 4)
      : sampler_(Context{}, vocab, options, defaults) {}
  std::int32_t next(const std::vector<float>& logits) {
    const auto vocab = static_cast<std::int64_t>(logits.size());
    std::int32_t id = 0;
    sampler_.draw();
    sampler_.choose({logits.data(), DType::kF32, 1, vocab, vocab}, &id);
    return sampler_.read(&id);
  }
  void observe(std::span<const std::int32_t> ids) { sampler_.observe(ids); }

 private:
  Sampler sampler_;
};

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Chooser sampler({}, {});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 3, 3, 2}), 1);
}

TEST(Sampler, TinyFileTemperatureIsGreedy) {
  GenerationDefaults file;
  file.do_sample = true;
  file.temperature = 1e-6;
  Chooser sampler({}, file);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sampler.next(std::vector<float>{0, 0.1F, 0}), 1);
}

TEST(Sampler, PenaltyDividesPositiveAndMultipliesNegative) {
  GenerationDefaults file;
  file.repetition_penalty = 2.0;
  Chooser sampler({}, file);
  const std::vector<std::int32_t> seen = {0, 2};
  sampler.observe(seen);
  EXPECT_EQ(sampler.next(std::vector<float>{3, 2, -1}), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-1, -1.5F, -1}), 0) << "the chosen id is seen from then on";
}

TEST(Sampler, TopKAndTopPBoundTheChoice) {
  GenerationOptions options;
  options.temperature = 1.0;
  options.top_k = 2;
  Chooser by_k(options, {});
  for (int i = 0; i < 200; ++i) EXPECT_LE(by_k.next(std::vector<float>{1, 1, 0.9F, 0.9F}), 1);
  options.top_k.reset();
  options.top_p = 0.5;
  Chooser by_p(options, {});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(by_p.next(std::vector<float>{0, 5, 0, 0}), 1);
}

TEST(Sampler, DrawsFollowTheSoftmaxAndTheSeed) {
  GenerationOptions options;
  options.temperature = 1.0;
  options.seed = 7;
  const std::vector<float> logits = {0, std::log(3.0F)};
  Chooser a(options, {});
  Chooser b(options, {});
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
  Chooser sampler({}, {});
  try {
    sampler.next(std::vector<float>{0, std::numeric_limits<float>::quiet_NaN()});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
  }
}

}  // namespace
}  // namespace purekv
