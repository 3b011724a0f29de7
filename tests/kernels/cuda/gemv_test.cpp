#include "kernels/cuda/gemv.h"

#include <cmath>
#include <random>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "kernels/linear.h"
#include "support/cuda.h"

namespace purekv {
namespace {

struct Case {
  std::int64_t rows, in, out;
  bool norm = false, wide_x = false, wide_out = false, accumulate = false, bias = false, fp8 = false;
};

float from_e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15;
  const auto fraction = static_cast<float>(bits & 7);
  const float size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (bits & 128) != 0 ? -size : size;
}

class CudaGemv : public CudaTest {
 protected:
  /// bf16, or e4m3 with a scale a row; on the host the same values in float32.
  struct Weight {
    std::vector<float> values, bias, scales;
    Buffer bits, bias_device, scales_device;
    Weight(const Context& context, const Case& c, std::mt19937& random)
        : values(normal_floats(c.out * c.in, random, 0.1F)), bias(normal_floats(c.out, random)) {
      bias_device = to_device(context, bias);
      if (c.fp8)
        make_fp8(context, c, random);
      else
        bits = to_device(context, round_to_bf16(values));
    }
    void make_fp8(const Context& context, const Case& c, std::mt19937& random) {
      std::vector<std::uint8_t> bytes(values.size());
      for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() % 127 + (random() % 2) * 128);
      scales = normal_floats(c.out, random, 1e-3F);
      for (std::size_t i = 0; i < bytes.size(); ++i)
        values[i] = from_e4m3(bytes[i]) * scales[i / static_cast<std::size_t>(c.in)];
      bits = to_device(context, bytes);
      scales_device = to_device(context, scales);
    }
    [[nodiscard]] LinearOperand device(const Case& c) const {
      LinearOperand w;
      w.weight = {bits.data(), c.fp8 ? DType::kFp8 : DType::kBF16, c.out, c.in, c.in};
      w.bias = c.bias ? bias_device.as<float>() : nullptr;
      w.scales = c.fp8 ? scales_device.as<float>() : nullptr;
      return w;
    }
    [[nodiscard]] LinearOperand host(const Case& c) const {
      LinearOperand w;
      w.weight = {values.data(), DType::kF32, c.out, c.in, c.in};
      w.bias = c.bias ? bias.data() : nullptr;
      return w;
    }
  };

  /// x and the norm's weight in both places.
  struct Input {
    std::vector<float> x, norm, normed;
    Buffer x_device, norm_device, work_device;
    Input(const Context& context, const Case& c, std::mt19937& random)
        : x(normal_floats(c.rows * c.in, random, 3)),
          norm(normal_floats(c.in, random)),
          normed(x.size()),
          norm_device(to_device(context, norm)),
          work_device(poisoned(context, c.rows * c.in * 2)) {
      x_device = c.wide_x ? to_device(context, x) : to_device(context, round_to_bf16(x));
    }
    [[nodiscard]] ConstMatrixView device(const Case& c) const {
      return {x_device.data(), c.wide_x ? DType::kF32 : DType::kBF16, c.rows, c.in, c.in};
    }
    [[nodiscard]] ConstMatrixView host(const Case& c) const { return {x.data(), DType::kF32, c.rows, c.in, c.in}; }
    [[nodiscard]] NormOperand device_norm(const Case& c) const {
      return {.weight = c.norm ? norm_device.as<float>() : nullptr,
              .eps = 1e-6F,
              .work = {work_device.data(), DType::kBF16, c.rows, c.in, c.in}};
    }
    [[nodiscard]] NormOperand host_norm(const Case& c) {
      return {.weight = c.norm ? norm.data() : nullptr,
              .eps = 1e-6F,
              .work = {normed.data(), DType::kF32, c.rows, c.in, c.in}};
    }
  };

  [[nodiscard]] std::vector<float> read(const Case& c, const Buffer& out) const {
    if (c.wide_out) return to_host<float>(context_, out.data(), c.rows * c.out);
    return widen(to_host<std::uint16_t>(context_, out.data(), c.rows * c.out));
  }

  void check(const Case& c) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.in << " x " << c.out);
    std::mt19937 random(21);
    Input x(context_, c, random);
    const Weight w(context_, c, random);
    std::vector<float> expected = normal_floats(c.rows * c.out, random);
    Buffer out = poisoned(context_, c.rows * c.out * 4);
    if (c.accumulate) out = c.wide_out ? to_device(context_, expected) : to_device(context_, round_to_bf16(expected));
    LinearParams p;
    p.x = x.device(c);
    p.norm = x.device_norm(c);
    p.w = w.device(c);
    p.out = {out.data(), c.wide_out ? DType::kF32 : DType::kBF16, c.rows, c.out, c.out};
    p.accumulate = c.accumulate;
    ASSERT_TRUE(cuda::gemv_takes(context_, p));
    linear(context_, p);
    p.x = x.host(c);
    p.norm = x.host_norm(c);
    p.w = w.host(c);
    p.out = {expected.data(), DType::kF32, c.rows, c.out, c.out};
    linear(cpu_, p);
    EXPECT_LE(nmse(read(c, out), expected), 5e-4);
  }

  void check_gated(const Case& c) {
    SCOPED_TRACE(testing::Message() << "gated " << c.rows << " x " << c.in << " x " << c.out);
    std::mt19937 random(22);
    Input x(context_, c, random);
    const Weight gate(context_, c, random);
    const Weight up(context_, c, random);
    std::vector<float> expected(static_cast<std::size_t>(c.rows * c.out));
    std::vector<float> spare(expected.size());
    const Buffer out = poisoned(context_, c.rows * c.out * 2);
    const Buffer work = poisoned(context_, c.rows * c.out * 2);
    GatedLinearParams p;
    p.x = x.device(c);
    p.norm = x.device_norm(c);
    p.gate = gate.device(c);
    p.up = up.device(c);
    p.out = {out.data(), DType::kBF16, c.rows, c.out, c.out};
    p.work = {work.data(), DType::kBF16, c.rows, c.out, c.out};
    ASSERT_TRUE(cuda::gated_gemv_takes(context_, p));
    gated_linear(context_, p);
    p.x = x.host(c);
    p.norm = x.host_norm(c);
    p.gate = gate.host(c);
    p.up = up.host(c);
    p.out = {expected.data(), DType::kF32, c.rows, c.out, c.out};
    p.work = {spare.data(), DType::kF32, c.rows, c.out, c.out};
    gated_linear(cpu_, p);
    EXPECT_LE(nmse(read(c, out), expected), 5e-4);
  }
};

TEST_F(CudaGemv, MatchesTheCpu) {
  for (const std::int64_t rows : {1, 2, 7, 8, 9, 16}) {
    check({.rows = rows, .in = 512, .out = 1000, .norm = true, .wide_x = true, .bias = true});
    check({.rows = rows, .in = 3584, .out = 300, .wide_out = true, .accumulate = true});
    check({.rows = rows, .in = 200, .out = 77, .wide_x = true, .wide_out = true, .bias = true});
    check({.rows = rows, .in = 8, .out = 1});
    check({.rows = rows, .in = 3584, .out = 72, .norm = true, .bias = true});
    check({.rows = rows, .in = 1032, .out = 40, .accumulate = true});
    check({.rows = rows, .in = 18944, .out = 40, .wide_out = true, .accumulate = true});
    check_gated({.rows = rows, .in = 512, .out = 1000, .norm = true, .wide_x = true, .bias = true});
    check_gated({.rows = rows, .in = 1032, .out = 5});
    check_gated({.rows = rows, .in = 1032, .out = 40, .norm = true});
  }
}

TEST_F(CudaGemv, Fp8WeightsMatchTheCpu) {
  if (context_.cuda->capability < 89) GTEST_SKIP() << "no fp8";
  for (const std::int64_t rows : {1, 3, 8, 16}) {
    check({.rows = rows, .in = 512, .out = 1000, .norm = true, .wide_x = true, .bias = true, .fp8 = true});
    check({.rows = rows, .in = 208, .out = 33, .wide_x = true, .wide_out = true, .fp8 = true});
    check({.rows = rows, .in = 18944, .out = 40, .wide_out = true, .accumulate = true, .fp8 = true});
    check({.rows = rows, .in = 1040, .out = 72, .norm = true, .accumulate = true, .fp8 = true});
    check_gated({.rows = rows, .in = 1040, .out = 77, .norm = true, .wide_x = true, .bias = true, .fp8 = true});
    check_gated({.rows = rows, .in = 1040, .out = 40, .norm = true, .fp8 = true});
  }
}

TEST_F(CudaGemv, RefusesWhatIsNotAligned) {
  std::mt19937 random(23);
  Case c{.rows = 1, .in = 516, .out = 16};
  const Input x(context_, c, random);
  const Weight w(context_, c, random);
  LinearParams p;
  p.x = x.device(c);
  p.w = w.device(c);
  p.out = {x.x_device.data(), DType::kBF16, 1, c.out, c.out};
  EXPECT_FALSE(cuda::gemv_takes(context_, p));  // 516 is no multiple of 8
}

TEST_F(CudaGemv, NanPasses) {
  const Case c{.rows = 2, .in = 256, .out = 64, .norm = true, .wide_x = true, .wide_out = true};
  std::mt19937 random(24);
  Input x(context_, c, random);
  Weight w(context_, c, random);
  std::vector<std::uint16_t> bits = to_host<std::uint16_t>(context_, w.bits.data(), c.out * c.in);
  bits[static_cast<std::size_t>(5 * c.in + 17)] = 0x7FC0;
  w.bits = to_device(context_, bits);
  const Buffer out(context_, c.rows * c.out * 4);
  LinearParams p;
  p.x = x.device(c);
  p.norm = x.device_norm(c);
  p.w = w.device(c);
  p.out = {out.data(), DType::kF32, c.rows, c.out, c.out};
  linear(context_, p);
  const auto got = to_host<float>(context_, out.data(), c.rows * c.out);
  for (std::int64_t i = 0; i < c.rows * c.out; ++i)
    EXPECT_EQ(std::isnan(got[static_cast<std::size_t>(i)]), i % c.out == 5) << i;
}

}  // namespace
}  // namespace purekv
