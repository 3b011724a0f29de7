#include "kernels/linear.h"

#include "kernels/cpu/rows_reference.h"
#include "support/cuda.h"

namespace purekv {
namespace {

using CudaLinearTest = CudaTest;

/// A product on the device and its double-precision twin on what the device was given.
struct Problem {
  std::int64_t rows, in, out;
  bool bias = false, accumulate = false, wide_x = false, wide_out = true, norm = false, fp8 = false;
  bool narrow_x = false;  ///< bf16 though it is normed
};

struct Weights {
  std::vector<float> values, bias, scales;
  Buffer device, device_bias, device_bias16, device_scales;

  Weights(const Context& context, const Problem& p, std::mt19937& random)
      : values(normal_floats(p.out * p.in, random, 0.05F)), bias(normal_floats(p.out, random)) {
    const std::vector<std::uint16_t> narrow_bias = round_to_bf16(bias);
    if (p.fp8)
      to_fp8_rows(context, p);
    else
      device = to_device(context, round_to_bf16(values));
    device_bias = to_device(context, bias);
    device_bias16 = to_device(context, narrow_bias);
  }

  /// Each row by its own scale; `values` become what the device reads.
  void to_fp8_rows(const Context& context, const Problem& p) {
    std::vector<Float8> bits;
    for (std::int64_t o = 0; o < p.out; ++o) {
      float most = 0;
      for (std::int64_t i = 0; i < p.in; ++i)
        most = std::max(most, std::abs(values[static_cast<std::size_t>(o * p.in + i)]));
      const float scale = most / 448.0F;
      scales.push_back(scale);
      for (std::int64_t i = 0; i < p.in; ++i) {
        float& value = values[static_cast<std::size_t>(o * p.in + i)];
        bits.push_back(to_fp8(value / scale));
        value = to_float(bits.back()) * scale;
      }
    }
    device = to_device(context, bits);
    device_scales = to_device(context, scales);
  }

  [[nodiscard]] LinearOperand operand(const Problem& p) const {
    return {.weight = {device.data(), p.fp8 ? DType::kFp8 : DType::kBF16, p.out, p.in, p.in},
            .bias = p.bias ? device_bias.as<float>() : nullptr,
            .bias16 = p.bias ? device_bias16.data() : nullptr,
            .scales = device_scales.as<float>()};
  }
};

std::vector<float> normed(const std::vector<float>& x, const std::vector<float>& weight, std::int64_t rows) {
  std::vector<float> out(x.size());
  const auto cols = static_cast<std::int64_t>(weight.size());
  rms_norm_reference({.x = {x.data(), DType::kF32, rows, cols, cols},
                      .weight = weight.data(),
                      .out = {out.data(), DType::kF32, rows, cols, cols}});
  return out;
}

std::vector<float> reference(const Problem& p, const std::vector<float>& x, const Weights& w,
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
  const Weights w(context, p, random);
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
                   .w = w.operand(p),
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

/// silu(x G^T + g) * (x U^T + u) against its parts in double precision.
double gated_error(const Context& context, const Problem& p) {
  std::mt19937 random(static_cast<unsigned>(p.rows + p.in));
  const Weights gate(context, p, random);
  const Weights up(context, p, random);
  std::vector<float> x = normal_floats(p.rows * p.in, random, 3);
  const Buffer dx = to_device(context, round_to_bf16(x));
  const Buffer out = poisoned(context, p.rows * p.out * 2);
  const Buffer work = poisoned(context, p.rows * p.out * 2);
  gated_linear(context, {.x = {dx.data(), DType::kBF16, p.rows, p.in, p.in},
                         .norm = {},
                         .gate = gate.operand(p),
                         .up = up.operand(p),
                         .out = {out.data(), DType::kBF16, p.rows, p.out, p.out},
                         .work = {work.data(), DType::kBF16, p.rows, p.out, p.out}});
  const std::vector<float> zero(static_cast<std::size_t>(p.rows * p.out), 0.0F);
  std::vector<float> expected = reference(p, x, gate, zero);
  const std::vector<float> right = reference(p, x, up, zero);
  swiglu_reference({expected.data(), DType::kF32, p.rows, p.out, p.out},
                   {right.data(), DType::kF32, p.rows, p.out, p.out});
  return nmse(widen(to_host<std::uint16_t>(context, out.data(), p.rows * p.out)), expected);
}

TEST_F(CudaLinearTest, GatedEqualsItsParts) {
  for (const std::int64_t rows : {1, 5, 64, 100, 255})
    EXPECT_LT(gated_error(context_, {.rows = rows, .in = 256, .out = 136, .bias = true}), kBound) << rows;
}

/// Rows enough for the fused kernel: around its tiles of 256 rows and 128 columns, its stages of 64 values and its ring
/// of four stages, with more tiles than the device has blocks.
TEST_F(CudaLinearTest, GatedInOneKernel) {
  for (const std::int64_t rows : {256, 257, 384, 511, 513})
    for (const std::int64_t in : {8, 56, 64, 72, 192, 256, 320})
      EXPECT_LT(gated_error(context_, {.rows = rows, .in = in, .out = 136, .bias = rows % 2 == 0}), kBound)
          << rows << " " << in;
  for (const std::int64_t out : {8, 64, 120, 128, 264})
    EXPECT_LT(gated_error(context_, {.rows = 300, .in = 128, .out = out}), kBound) << out;
  EXPECT_LT(gated_error(context_, {.rows = 5000, .in = 64, .out = 1024, .bias = true}), kBound);
  // Long rows: the ring of stages turns many times within a tile.
  for (const std::int64_t in : {1280, 2048, 2120})
    EXPECT_LT(gated_error(context_, {.rows = 600, .in = in, .out = 1040}), kBound) << in;
}

TEST_F(CudaLinearTest, GatedFp8) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t rows : {64, 256, 321, 700})
    for (const std::int64_t in : {16, 112, 128, 144, 640})
      EXPECT_LT(gated_error(context_, {.rows = rows, .in = in, .out = 208, .bias = rows == 256, .fp8 = true}),
                2 * kFp8Bound)
          << rows << " " << in;
  EXPECT_LT(gated_error(context_, {.rows = 600, .in = 2064, .out = 1040, .fp8 = true}), 2 * kFp8Bound);
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
