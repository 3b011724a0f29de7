#include <cmath>
#include <limits>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/operand.h"
#include "kernels/linear.h"
#include "purekv/error.h"
#include "support/cuda.h"
#include "support/device_weight.h"

namespace purekv {
namespace {

/// bf16 rounding of the output, and of both products where they are stored.
constexpr double kBound = 5e-4;
/// e4m3 keeps three bits of a value of x, which both factors share: 2^-4 / sqrt(3) relative, squared.
constexpr double kFp8Bound = 4e-3;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  std::int64_t rows, in, out;
  bool bias = false, fp8 = false;
  std::int64_t x_pad = 0, out_pad = 0;  ///< elements behind each row
  bool has_work = true;                 ///< the caller gives memory for x U^T
};

class CudaGatedLinear : public CudaTest {
 protected:
  /// x on both sides, in rows of in + x_pad.
  struct Problem {
    Case size;
    DeviceWeight gate, up;
    std::vector<float> x;
    Buffer x_device, out, work;

    [[nodiscard]] std::int64_t x_stride() const { return size.in + size.x_pad; }
    [[nodiscard]] std::int64_t out_stride() const { return size.out + size.out_pad; }
    [[nodiscard]] GatedLinearParams device() const {
      return {.x = {x_device.data(), DType::kBF16, size.rows, size.in, x_stride()},
              .norm = {},
              .gate = gate.operand(size.bias),
              .up = up.operand(size.bias),
              .out = {out.data(), DType::kBF16, size.rows, size.out, out_stride()},
              .work = {size.has_work ? work.data() : nullptr, DType::kBF16, size.rows, size.out, size.out}};
    }
  };

  Problem make(const Case& c) {
    Problem p{c,
              DeviceWeight(context_, c.out, c.in, c.fp8, random_),
              DeviceWeight(context_, c.out, c.in, c.fp8, random_),
              normal_floats(c.rows * (c.in + c.x_pad), random_, 3),
              {},
              {},
              {}};
    std::vector<std::uint16_t> bits = round_to_bf16(p.x);
    for (std::size_t i = 0; i < bits.size(); ++i)  // nobody may read between rows
      if (static_cast<std::int64_t>(i) % p.x_stride() >= c.in) bits[i] = 0x7FC0;
    p.x_device = to_device(context_, bits);
    p.work = poisoned(context_, c.rows * c.out * 2);
    return p;
  }

  [[nodiscard]] bool is_fused(const GatedLinearParams& p) const {
    const cuda::Operand x = cuda::prepare(context_, p.x, p.norm, p.gate.weight.dtype);
    return cuda::fuses_gated(context_, x, p);
  }

  /// What a call leaves, as bits; what lies between its rows must stay as it was.
  std::vector<std::uint16_t> run(Problem& p) const {
    p.out = poisoned(context_, p.size.rows * p.out_stride() * 2);
    gated_linear(context_, p.device());
    std::vector<std::uint16_t> rows;
    std::int64_t at = 0;
    for (const std::uint16_t bits : to_host<std::uint16_t>(context_, p.out.data(), p.size.rows * p.out_stride()))
      if (at++ % p.out_stride() < p.size.out)
        rows.push_back(bits);
      else
        EXPECT_EQ(bits, 0xFFFF) << "between rows";
    return rows;
  }

  std::vector<float> on_host(const Problem& p) const {
    const Case& c = p.size;
    std::vector<float> out(static_cast<std::size_t>(c.rows * c.out));
    std::vector<float> work = out;
    gated_linear(cpu_, {.x = {p.x.data(), DType::kF32, c.rows, c.in, p.x_stride()},
                        .norm = {},
                        .gate = p.gate.host_operand(c.bias),
                        .up = p.up.host_operand(c.bias),
                        .out = {out.data(), DType::kF32, c.rows, c.out, c.out},
                        .work = {work.data(), DType::kF32, c.rows, c.out, c.out}});
    return out;
  }

  /// `fused`: one kernel makes both halves where the device is a Hopper.
  void expect_near(const Case& c, bool fused) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.in << "+" << c.x_pad << " x " << c.out << "+" << c.out_pad
                                    << (c.bias ? " bias" : "") << (c.fp8 ? " fp8" : ""));
    Problem p = make(c);
    p.out = poisoned(context_, c.rows * p.out_stride() * 2);
    ASSERT_EQ(is_fused(p.device()), fused && context_.cuda->capability == 90);
    const std::vector<std::uint16_t> got = run(p);
    EXPECT_LT(nmse(widen(got), on_host(p)), c.fp8 ? kFp8Bound : kBound);
    EXPECT_EQ(run(p), got) << "the same bits from run to run";
  }

  std::mt19937 random_{31};
};

TEST_F(CudaGatedLinear, TwoProductsEqualTheirParts) {
  for (const std::int64_t rows : {1, 5, 64, 100, 255})
    expect_near({.rows = rows, .in = 256, .out = 136, .bias = true}, false);
  expect_near({.rows = 70, .in = 256, .out = 136, .has_work = false}, false);
}

/// Rows enough for the fused kernel: around its tiles of 256 rows and 96 columns, two of them a cluster, its stages of
/// 64 values and its ring of four stages; with more tiles than the device has blocks, of one to five steps.
TEST_F(CudaGatedLinear, OneKernelAroundItsTiles) {
  for (const std::int64_t rows : {256, 257, 384, 511, 513})
    for (const std::int64_t in : {8, 56, 64, 72, 192, 256, 320})
      expect_near({.rows = rows, .in = in, .out = 136, .bias = rows % 2 == 0}, true);
  for (const std::int64_t out : {8, 88, 96, 104, 184, 192, 200, 264})
    expect_near({.rows = 300, .in = 128, .out = out}, true);
  for (const std::int64_t in : {64, 128, 192, 256, 320})
    expect_near({.rows = 5000, .in = in, .out = 1024, .bias = in != 256}, true);
  // Long rows: the ring of stages turns many times within a tile.
  for (const std::int64_t in : {1280, 2048, 2120}) expect_near({.rows = 600, .in = in, .out = 1040}, true);
}

TEST_F(CudaGatedLinear, Fp8) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t rows : {64, 256, 321, 700})
    for (const std::int64_t in : {16, 112, 128, 144, 640}) {
      const bool bias = rows == 256;  // the kernel has either scales or biases
      expect_near({.rows = rows, .in = in, .out = 208, .bias = bias, .fp8 = true}, rows >= 256 && !bias);
    }
  expect_near({.rows = 256, .in = 144, .out = 208, .fp8 = true}, true);
  for (const std::int64_t in : {128, 256, 512, 640})
    expect_near({.rows = 5000, .in = in, .out = 1024, .fp8 = true}, true);
  expect_near({.rows = 600, .in = 2064, .out = 1040, .fp8 = true}, true);
}

TEST_F(CudaGatedLinear, StridedRows) {
  expect_near({.rows = 300, .in = 136, .out = 136, .x_pad = 8}, true);
  expect_near({.rows = 300, .in = 136, .out = 136, .bias = true, .out_pad = 8}, true);
  expect_near({.rows = 515, .in = 64, .out = 200, .x_pad = 24, .out_pad = 40}, true);
  expect_near({.rows = 100, .in = 136, .out = 136, .x_pad = 8, .out_pad = 16}, false);
  if (!has_fp8(context_)) return;
  expect_near({.rows = 300, .in = 144, .out = 144, .fp8 = true, .x_pad = 8, .out_pad = 8}, true);
  expect_near({.rows = 300, .in = 144, .out = 144, .fp8 = true, .x_pad = 4}, true);  // x is copied as it is scaled
}

/// Whatever the copy engine cannot take goes through two products, with and without memory for them.
TEST_F(CudaGatedLinear, RowsOffSixteenBytesFallBack) {
  for (const bool has_work : {true, false}) {
    expect_near({.rows = 300, .in = 136, .out = 132, .bias = true, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .out = 77, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 132, .out = 136, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .out = 136, .x_pad = 4, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .out = 136, .out_pad = 4, .has_work = has_work}, false);
  }
}

/// fp8 rows off 16 bytes: neither the kernel nor, on the devices known, cuBLASLt takes them. No wrong result.
TEST_F(CudaGatedLinear, Fp8RowsOffSixteenBytesAreRightOrRefused) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t in : {72, 136}) {
    Problem p = make({.rows = 300, .in = in, .out = 144, .fp8 = true});
    p.out = poisoned(context_, 300 * 144 * 2);
    ASSERT_FALSE(is_fused(p.device()));
    try {
      EXPECT_LT(nmse(widen(run(p)), on_host(p)), kFp8Bound) << in;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kResource) << error.what();
    }
  }
}

/// A NaN of x reaches its row and no other, one of a weight its column.
TEST_F(CudaGatedLinear, NotANumberPasses) {
  for (const bool fp8 : {false, true}) {
    if (fp8 && !has_fp8(context_)) continue;
    for (const std::int64_t rows : {100, 520}) {
      Problem p = make({.rows = rows, .in = 144, .out = 144, .fp8 = fp8});
      const std::int64_t row = rows - 3;
      p.x[static_cast<std::size_t>(row * 144 + 77)] = kNan;
      p.x_device = to_device(context_, round_to_bf16(p.x));
      const std::uint16_t nan = fp8 ? 0x7F : 0x7FC0;  // of a byte, or of two
      const std::int64_t bytes = fp8 ? 1 : 2;
      upload(context_, p.gate.device.as<std::byte>() + (5 * 144 + 143) * bytes, &nan, bytes);
      upload(context_, p.up.device.as<std::byte>() + (130 * 144 + 1) * bytes, &nan, bytes);
      const std::vector<float> got = widen(run(p));
      for (std::int64_t i = 0; i < rows * 144; ++i) {
        const bool reached = i / 144 == row || i % 144 == 5 || i % 144 == 130;
        ASSERT_EQ(std::isnan(got[static_cast<std::size_t>(i)]), reached)
            << "row " << i / 144 << " of " << rows << " column " << i % 144 << (fp8 ? " fp8" : "");
      }
    }
  }
}

}  // namespace
}  // namespace purekv
