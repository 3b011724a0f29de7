#include "kernels/choose_token.h"

#include <cmath>
#include <random>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

ChooseTokenParams rule(float temperature, float penalty = 1, float top_p = 1, std::int64_t top_k = 0) {
  ChooseTokenParams p;
  p.temperature = temperature;
  p.penalty = penalty;
  p.top_p = top_p;
  p.top_k = top_k;
  return p;
}

class CudaChooseToken : public CudaTest {
 protected:
  /// The CPU twin on the same logits, marks and uniform numbers must choose and mark the same.
  void check(std::vector<float> logits, std::int64_t sequences, ChooseTokenParams p) {
    const auto vocab = static_cast<std::int64_t>(logits.size()) / sequences;
    std::mt19937 random(3);
    std::vector<std::uint8_t> seen(logits.size());
    for (std::uint8_t& mark : seen) mark = random() % 3 == 0 ? 1 : 0;
    std::vector<double> uniform(static_cast<std::size_t>(sequences));
    for (double& u : uniform) u = static_cast<double>(random()) * 0x1p-32;
    const Buffer logits_device = to_device(context_, logits);
    const Buffer seen_device = to_device(context_, seen);
    const Buffer uniform_device = to_device(context_, uniform);
    const Buffer ids_device = poisoned(context_, sequences * 4);
    const std::int64_t elements = choose_token_work(sequences, vocab);
    const Buffer work = poisoned(context_, elements * 4);
    p.logits = {logits_device.data(), DType::kF32, sequences, vocab, vocab};
    p.seen = seen_device.as<std::uint8_t>();
    p.uniform = uniform_device.as<double>();
    p.ids = ids_device.as<std::int32_t>();
    p.work = {work.data(), DType::kF32, 1, elements, elements};
    choose_token(context_, p);

    std::vector<std::int32_t> ids(static_cast<std::size_t>(sequences));
    p.logits = {logits.data(), DType::kF32, sequences, vocab, vocab};
    p.seen = seen.data();
    p.uniform = uniform.data();
    p.ids = ids.data();
    choose_token(cpu_, p);
    EXPECT_EQ(to_host<std::int32_t>(context_, ids_device.data(), sequences), ids);
    EXPECT_EQ(to_host<std::uint8_t>(context_, seen_device.data(), sequences * vocab), seen);
  }

  /// Logits in steps of 1 / ties: many are equal.
  static std::vector<float> tied(std::int64_t count, float ties) {
    std::mt19937 random(9);
    std::vector<float> x = normal_floats(count, random, 4);
    for (float& value : x) value = std::round(value * ties) / ties;
    return x;
  }
};

TEST_F(CudaChooseToken, Greedy) {
  for (const std::int64_t vocab : {1, 2, 255, 1000, 152064}) check(tied(3 * vocab, 2), 3, rule(0, 1.2F));
  check({-0.0F, 0.0F, -1.0F}, 1, rule(0));
}

TEST_F(CudaChooseToken, Sampled) {
  check(tied(4 * 1000, 64), 4, rule(0.7F));
  check(tied(4 * 1000, 4), 4, rule(0.7F, 1.3F, 0.9F, 50));
  check(tied(2LL * 152064, 8), 2, rule(1, 1.1F, 0.8F));
  check(tied(2LL * 152064, 8), 2, rule(1.5F, 1, 1, 20));
  check(tied(5 * 7, 1), 5, rule(0.7F, 1, 0, 3));
  check(tied(9 * 5000, 2), 9, rule(0.3F, 1, 0.95F));
  check({3.0F}, 1, rule(1));
}

TEST_F(CudaChooseToken, LogitsThatAreNotFinite) {
  for (const float temperature : {0.0F, 1.0F}) {
    std::vector<float> logits = tied(3 * 700, 2);
    logits[2] = INFINITY;
    logits[1400 + 699] = NAN;
    logits[1400 + 650] = -INFINITY;
    check(logits, 3, rule(temperature, 1.1F));
  }
}

}  // namespace
}  // namespace purekv
