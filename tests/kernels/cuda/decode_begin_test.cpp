#include "kernels/decode_begin.h"

#include <random>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

class CudaDecodeBegin : public CudaTest {};

TEST_F(CudaDecodeBegin, MatchesTheCpu) {
  constexpr std::int64_t kVocab = 50;
  constexpr std::int64_t kHalf = 64;
  for (const std::int64_t hidden : {1, 130, 3584}) {
    std::mt19937 random(5);
    std::vector<float> table = normal_floats(kVocab * hidden, random);
    const Buffer table_bits = to_device(context_, round_to_bf16(table));
    const std::vector<std::int32_t> ids = {49, -1, 0};
    const std::vector<std::int32_t> positions = {0, 77, 262143};
    std::vector<float> inverse;
    for (std::int64_t j = 0; j < kHalf; ++j)
      inverse.push_back(std::pow(1e6F, -static_cast<float>(j) / static_cast<float>(kHalf)));
    const Buffer ids_device = to_device(context_, ids);
    const Buffer positions_device = to_device(context_, positions);
    const Buffer inverse_device = to_device(context_, inverse);
    const Buffer out = poisoned(context_, 3 * hidden * 4);
    const Buffer cos = poisoned(context_, 3 * kHalf * 4);
    const Buffer sin = poisoned(context_, 3 * kHalf * 4);
    decode_begin(context_, {.table = {table_bits.data(), DType::kBF16, kVocab, hidden, hidden},
                            .ids = ids_device.as<std::int32_t>(),
                            .positions = positions_device.as<std::int32_t>(),
                            .inverse_frequency = inverse_device.as<float>(),
                            .half = kHalf,
                            .hidden = {out.data(), DType::kF32, 3, hidden, hidden},
                            .cos = cos.as<float>(),
                            .sin = sin.as<float>()});
    std::vector<float> expected(static_cast<std::size_t>(3 * hidden));
    std::vector<float> expected_cos(3 * kHalf);
    std::vector<float> expected_sin(3 * kHalf);
    decode_begin(cpu_, {.table = {table.data(), DType::kF32, kVocab, hidden, hidden},
                        .ids = ids.data(),
                        .positions = positions.data(),
                        .inverse_frequency = inverse.data(),
                        .half = kHalf,
                        .hidden = {expected.data(), DType::kF32, 3, hidden, hidden},
                        .cos = expected_cos.data(),
                        .sin = expected_sin.data()});
    EXPECT_EQ(to_host<float>(context_, out.data(), 3 * hidden), expected);
    const auto got_cos = to_host<float>(context_, cos.data(), 3 * kHalf);
    const auto got_sin = to_host<float>(context_, sin.data(), 3 * kHalf);
    for (std::size_t i = 0; i < expected_cos.size(); ++i) {
      EXPECT_NEAR(got_cos[i], expected_cos[i], 3e-7);
      EXPECT_NEAR(got_sin[i], expected_sin[i], 3e-7);
    }
  }
}

TEST_F(CudaDecodeBegin, EndCountsUp) {
  std::vector<KvRows> rows(1000);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].rows = static_cast<std::int64_t>(i);
  const Buffer rows_device = to_device(context_, rows);
  const Buffer positions = to_device(context_, std::vector<std::int32_t>{4, 9});
  decode_end(
      context_,
      {.rows = rows_device.as<KvRows>(), .count = 1000, .positions = positions.as<std::int32_t>(), .sequences = 2});
  const auto got = to_host<KvRows>(context_, rows_device.data(), 1000);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].rows, static_cast<std::int64_t>(i) + 1);
  EXPECT_EQ(to_host<std::int32_t>(context_, positions.data(), 2), (std::vector<std::int32_t>{5, 10}));
}

}  // namespace
}  // namespace purekv
