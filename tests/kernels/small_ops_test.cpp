#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/dtype.h"
#include "kernels/permute_rows.h"
#include "kernels/quantize.h"
#include "kernels/random_bits.h"
#include "kernels/rope_table.h"

namespace purekv {
namespace {

TEST(Float8, EveryCodeComesBack) {
  for (int bits = 0; bits < 256; ++bits) {
    const Float8 code{static_cast<std::uint8_t>(bits)};
    const float value = to_float(code);
    if ((bits & 0x7F) == 0x7F)
      EXPECT_TRUE(std::isnan(value));
    else
      EXPECT_EQ(to_fp8(value).bits, bits) << value;
  }
}

TEST(Float8, RoundsToTheNearestAndEven) {
  for (int bits = 0; bits < 0x7E; ++bits) {
    const float low = to_float(Float8{static_cast<std::uint8_t>(bits)});
    const float high = to_float(Float8{static_cast<std::uint8_t>(bits + 1)});
    const float middle = (low + high) / 2;
    EXPECT_EQ(to_fp8(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(to_fp8(std::nextafter(middle, 0.0F)).bits, bits);
    EXPECT_EQ(to_fp8(-std::nextafter(middle, 1000.0F)).bits, (bits + 1) | 0x80);
  }
  EXPECT_EQ(to_float(to_fp8(1e9F)), 448.0F);
  EXPECT_EQ(to_float(to_fp8(-std::numeric_limits<float>::infinity())), -448.0F);
  EXPECT_TRUE(std::isnan(to_float(to_fp8(std::nanf("")))));
}

TEST(Quantize, LargestValueOfARowIs448) {
  const std::vector<float> in = {0, 0, 0, 1, -7, 3.5F, -1e-3F, 0, 1e-3F};
  std::vector<Float8> out(9);
  std::vector<float> scales(3);
  quantize_rows(
      {},
      {.in = {in.data(), DType::kF32, 3, 3, 3}, .out = {out.data(), DType::kFp8, 3, 3, 3}, .scales = scales.data()});
  EXPECT_EQ(scales[0], 1.0F);
  EXPECT_EQ(scales[1], 7.0F / 448.0F);
  EXPECT_EQ(to_float(out[4]), -448.0F);
  EXPECT_EQ(to_float(out[5]), 224.0F);
  for (std::size_t i = 0; i < 9; ++i) EXPECT_NEAR(to_float(out[i]) * scales[i / 3], in[i], 0.04 * std::abs(in[i]));
}

TEST(Quantize, TinyRowsAreZerosAndNaNStays) {
  const float tiny = 1e-37F;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> in = {tiny, -tiny, 0, 1, nan, 0};
  std::vector<Float8> out(6);
  std::vector<float> scales(2);
  quantize_rows(
      {},
      {.in = {in.data(), DType::kF32, 2, 3, 3}, .out = {out.data(), DType::kFp8, 2, 3, 3}, .scales = scales.data()});
  EXPECT_EQ(scales[0], 1.0F);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(to_float(out[i]), 0.0F);
  EXPECT_TRUE(std::isnan(scales[1]) && std::isnan(to_float(out[3])));
}

TEST(RandomBits, LieInTheirOctaveOnAnyThreads) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kFp8}) {
    std::vector<std::uint8_t> one(3001 * size_of(type));
    std::vector<std::uint8_t> three(one.size());
    random_bits({.threads = 1}, {one.data(), type, 1, 3001, 3001}, 0.25F, 9);
    random_bits({.threads = 3}, {three.data(), type, 1, 3001, 3001}, 0.25F, 9);
    EXPECT_EQ(one, three);
    double sum = 0;
    for (std::int64_t i = 0; i < 3001; ++i) {
      const float x = type == DType::kF32    ? load_element<float>(one.data(), i)
                      : type == DType::kBF16 ? to_float(load_element<BFloat16>(one.data(), i))
                      : type == DType::kF16  ? to_float(load_element<Float16>(one.data(), i))
                                             : to_float(load_element<Float8>(one.data(), i));
      ASSERT_GE(std::abs(x), 0.25F);
      ASSERT_LT(std::abs(x), 0.5F);
      sum += static_cast<double>(x);
    }
    EXPECT_LT(std::abs(sum / 3001), 0.03);
  }
}

TEST(RandomNormal, HasUnitDeviationOnAnyThreads) {
  std::vector<float> one(20001);
  std::vector<float> three(one.size());
  const auto view = [](std::vector<float>& x) { return MatrixView{x.data(), DType::kF32, 1, 20001, 20001}; };
  random_normal({.threads = 1}, view(one), 4);
  random_normal({.threads = 3}, view(three), 4);
  EXPECT_EQ(one, three);
  double sum = 0;
  double squares = 0;
  for (const float x : one) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
  }
  EXPECT_NEAR(sum / 20001, 0, 0.03);
  EXPECT_NEAR(squares / 20001, 1, 0.05);
}

TEST(PermuteRows, MovesGroups) {
  const std::vector<float> in = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<std::int32_t> rows = {1, 0, 1};
  std::vector<float> out(12, -1.0F);
  permute_rows({}, {.in = {in.data(), DType::kF32, 4, 2, 2},
                    .rows = rows.data(),
                    .group = 2,
                    .out = {out.data(), DType::kF32, 6, 2, 2}});
  EXPECT_EQ(out, (std::vector<float>{4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(RopeTable, ProductIsRoundedBeforeTheAngle) {
  const std::vector<std::int32_t> positions = {100003, 7};
  const std::vector<float> frequency = {0.3F, 1.0F};
  const std::vector<std::int32_t> axis = {0, 1};
  std::vector<float> cos(2);
  std::vector<float> sin(2);
  rope_table({}, {.positions = positions.data(),
                  .rows = 1,
                  .frequency = frequency.data(),
                  .axis = axis.data(),
                  .half = 2,
                  .cos = cos.data(),
                  .sin = sin.data()});
  const auto angle = static_cast<double>(100003.0F * 0.3F);
  EXPECT_NEAR(cos[0], std::cos(angle), 1e-6);
  EXPECT_NEAR(sin[1], std::sin(7.0), 1e-6);
}

}  // namespace
}  // namespace purekv
