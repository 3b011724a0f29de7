#include "kernels/linear.h"

#include "kernels/cpu/rows_reference.h"
#include "support/cuda.h"
#include "support/device_weight.h"

namespace purekv {
namespace {

using CudaLinearTest = CudaTest;

/// A product on the device and its double-precision twin on what the device was given.
struct Problem {
  std::int64_t rows, in, out;
  bool bias = false, accumulate = false, wide_x = false, wide_out = true, norm = false, fp8 = false;
  bool narrow_x = false;  ///< bf16 though it is normed
};

std::vector<float> normed(const std::vector<float>& x, const std::vector<float>& weight, std::int64_t rows) {
  std::vector<float> out(x.size());
  const auto cols = static_cast<std::int64_t>(weight.size());
  rms_norm_reference({.x = {x.data(), DType::kF32, rows, cols, cols},
                      .weight = weight.data(),
                      .out = {out.data(), DType::kF32, rows, cols, cols}});
  return out;
}

std::vector<float> reference(const Problem& p, const std::vector<float>& x, const DeviceWeight& w,
                             const std::vector<float>& before) {
  std::vector<float> out = before;
  for (std::int64_t r = 0; r < p.rows; ++r)
    for (std::int64_t o = 0; o < p.out; ++o) {
      double sum = p.bias ? w.bias[static_cast<std::size_t>(o)] : 0.0;
      for (std::int64_t i = 0; i < p.in; ++i)
        sum += static_cast<double>(x[static_cast<std::size_t>(r * p.in + i)]) *
               w.values[static_cast<std::size_t>(o * p.in + i)];
      float& at = out[static_cast<std::size_t>(r * p.out + o)];
      at = static_cast<float>((p.accumulate ? at : 0.0) + sum);
    }
  return out;
}

double error_of(const Context& context, const Problem& p, unsigned seed) {
  std::mt19937 random(seed);
  const DeviceWeight w(context, p.out, p.in, p.fp8, random);
  std::vector<float> x = normal_floats(p.rows * p.in, random);
  std::vector<float> norm_weight = normal_floats(p.in, random);
  const bool wide_x = (p.wide_x || p.norm) && !p.narrow_x;
  const std::vector<std::uint16_t> narrow = wide_x ? std::vector<std::uint16_t>() : round_to_bf16(x);
  const Buffer dx = wide_x ? to_device(context, x) : to_device(context, narrow);
  const Buffer dnorm = to_device(context, norm_weight);
  const Buffer work = poisoned(context, p.rows * p.in * 2);
  std::vector<float> before = normal_floats(p.rows * p.out, random);
  Buffer out = poisoned(context, p.rows * p.out * (p.wide_out ? 4 : 2));
  if (p.accumulate) out = p.wide_out ? to_device(context, before) : to_device(context, round_to_bf16(before));
  linear(context, {.x = {dx.data(), wide_x ? DType::kF32 : DType::kBF16, p.rows, p.in, p.in},
                   .norm = {.weight = p.norm ? dnorm.as<float>() : nullptr,
                            .work = {work.data(), DType::kBF16, p.rows, p.in, p.in}},
                   .w = w.operand(p.bias),
                   .out = {out.data(), p.wide_out ? DType::kF32 : DType::kBF16, p.rows, p.out, p.out},
                   .accumulate = p.accumulate});
  const std::vector<float> got = p.wide_out ? to_host<float>(context, out.data(), p.rows * p.out)
                                            : widen(to_host<std::uint16_t>(context, out.data(), p.rows * p.out));
  return nmse(got, reference(p, p.norm ? normed(x, norm_weight, p.rows) : x, w, before));
}

/// bf16 rounding of x and of the output is the whole error.
constexpr double kBound = 5e-4;
/// e4m3 keeps three bits of a value of x: 2^-4 / sqrt(3) relative, squared.
constexpr double kFp8Bound = 2e-3;

TEST_F(CudaLinearTest, EveryRowCountShapeAndEpilogue) {
  unsigned seed = 1;
  for (const std::int64_t rows : {1, 2, 7, 8, 9, 16, 33, 64, 65, 129})
    for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{128, 64}, {320, 200}, {1176, 96}}) {
      EXPECT_LT(error_of(context_, {rows, in, out}, ++seed), kBound) << rows << " " << in << " " << out;
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .bias = true, .accumulate = true}, ++seed),
                kBound);
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .bias = true, .wide_out = false}, ++seed),
                kBound);
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .wide_x = true}, ++seed), kBound);
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .wide_out = false, .norm = true}, ++seed),
                kBound);
    }
}

TEST_F(CudaLinearTest, Fp8ScalesRowsAndChannels) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  unsigned seed = 100;
  for (const std::int64_t rows : {1, 8, 65, 256})
    for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{128, 64}, {512, 208}}) {
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .fp8 = true}, ++seed), kFp8Bound) << rows;
      EXPECT_LT(
          error_of(context_,
                   {.rows = rows, .in = in, .out = out, .bias = true, .wide_out = false, .norm = true, .fp8 = true},
                   ++seed),
          kFp8Bound);
      EXPECT_LT(error_of(context_, {.rows = rows, .in = in, .out = out, .accumulate = true, .fp8 = true}, ++seed),
                kFp8Bound);
    }
}

/// A prefill's: bf16 rows that are normed, and bf16 rows that products add into.
TEST_F(CudaLinearTest, ResidualStreamInBf16) {
  unsigned seed = 200;
  for (const bool fp8 : {false, true}) {
    if (fp8 && !has_fp8(context_)) continue;
    const double bound = fp8 ? kFp8Bound : kBound;
    for (const std::int64_t rows : {1, 2, 9, 16, 17, 100})
      for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{128, 64}, {512, 208}}) {
        SCOPED_TRACE(testing::Message() << rows << " x " << in << " x " << out << (fp8 ? " fp8" : ""));
        Problem p{.rows = rows, .in = in, .out = out, .wide_out = false, .norm = true, .fp8 = fp8, .narrow_x = true};
        EXPECT_LT(error_of(context_, p, ++seed), bound);
        p.bias = true;
        EXPECT_LT(error_of(context_, p, ++seed), bound);
        p = {.rows = rows, .in = in, .out = out, .accumulate = true, .wide_out = false, .fp8 = fp8};
        EXPECT_LT(error_of(context_, p, ++seed), bound);
      }
  }
}

TEST_F(CudaLinearTest, NotANumberPasses) {
  for (const std::int64_t rows : {1, 100}) {
    const std::vector<std::uint16_t> x(static_cast<std::size_t>(rows * 64), 0x7FC0);
    const Buffer dx = to_device(context_, x);
    const Buffer w = to_device(context_, std::vector<std::uint16_t>(64 * 64, 0x3F80));
    const Buffer out(context_, rows * 64 * 4);
    linear(context_, {.x = {dx.data(), DType::kBF16, rows, 64, 64},
                      .norm = {},
                      .w = {.weight = {w.data(), DType::kBF16, 64, 64, 64}},
                      .out = {out.data(), DType::kF32, rows, 64, 64}});
    for (const float value : to_host<float>(context_, out.data(), rows * 64)) ASSERT_TRUE(std::isnan(value));
  }
}

}  // namespace
}  // namespace purekv
