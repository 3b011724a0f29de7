#include <algorithm>
#include <array>
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

  /// Rows of e4m3 and their scales.
  struct Quantized {
    std::vector<Float8> codes;
    std::vector<float> scales;
    bool operator==(const Quantized& other) const {
      return scales == other.scales && std::equal(codes.begin(), codes.end(), other.codes.begin(), other.codes.end(),
                                                  [](Float8 a, Float8 b) { return a.bits == b.bits; });
    }
  };

  Quantized run_quantized(Problem& p) const {
    const std::int64_t count = p.size.rows * p.size.out;
    p.out = poisoned(context_, count * 2);
    const GatedLinearParams params = p.device();
    const cuda::Operand x = cuda::prepare(context_, params.x, params.norm, DType::kFp8);
    EXPECT_TRUE(cuda::quantizes_gated(context_, x, params));
    const cuda::Operand out = cuda::multiply_gated_quantized(context_, x, params);
    for (const std::uint8_t byte : to_host<std::uint8_t>(context_, p.out.as<std::uint8_t>() + count, count))
      EXPECT_EQ(byte, 0xFF) << "behind the rows of e4m3";
    return {to_host<Float8>(context_, out.x.data, count), to_host<float>(context_, out.scales.data(), p.size.rows)};
  }

  /// Every value is the bf16 one in e4m3, by a scale that neither clips a row's largest value nor lets it vanish.
  void expect_quantized(Problem& p) {
    SCOPED_TRACE(testing::Message() << p.size.rows << " x " << p.size.in << " x " << p.size.out);
    const Quantized got = run_quantized(p);
    const std::vector<float> want = widen(run(p));
    for (std::int64_t row = 0; row < p.size.rows; ++row) {
      const float scale = got.scales[static_cast<std::size_t>(row)];
      float most = 0;
      for (std::int64_t i = row * p.size.out; i < (row + 1) * p.size.out; ++i) {
        const float value = want[static_cast<std::size_t>(i)];
        most = std::max(most, std::abs(value));
        // Three bits of fraction, and the bf16 value's own rounding; below 2^-6 steps of 2^-9, rounded once or twice.
        ASSERT_NEAR(to_float(got.codes[static_cast<std::size_t>(i)]) * scale, value,
                    std::max(std::abs(value) * 0x1.04p-4F, scale * 0x1p-9F))
            << "row " << row << " column " << i % p.size.out;
      }
      ASSERT_LE(most, 448 * scale) << "row " << row;
      ASSERT_TRUE(most >= 3 * scale || most == 0) << "row " << row << ": " << most << " at a scale of " << scale;
    }
    EXPECT_EQ(run_quantized(p), got) << "the same bits from run to run";
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

/// The rows of the next product with fp8 weights: around the columns that share an exponent (32), tiles and clusters.
TEST_F(CudaGatedLinear, QuantizedRowsAreTheBf16Ones) {
  if (context_.cuda->capability != 90) GTEST_SKIP() << "one kernel makes them on a Hopper alone";
  for (const std::int64_t rows : {256, 257, 515})
    for (const std::int64_t out : {16, 32, 48, 96, 112, 192, 208, 288, 400}) {
      Problem p = make({.rows = rows, .in = 144, .out = out, .fp8 = true});
      expect_quantized(p);
    }
  Problem p = make({.rows = 5000, .in = 640, .out = 1024, .fp8 = true});
  expect_quantized(p);
}

/// Columns far above the first 192, which have to widen their rows' scale, or far below; rows of zeros.
TEST_F(CudaGatedLinear, QuantizedRowsWithOutliers) {
  if (context_.cuda->capability != 90) GTEST_SKIP() << "one kernel makes them on a Hopper alone";
  struct Rows {
    std::int64_t first, count;
    float factor;
  };
  for (const Rows& rows :
       {Rows{192, 208, 64}, {399, 1, 1024}, {0, 192, 64}, {0, 1, 4096}, {0, 192, 0}, {0, 400, 0x1p-40F}}) {
    Problem p = make({.rows = 300, .in = 144, .out = 400, .fp8 = true});
    p.gate.scale_rows(context_, rows.first, rows.count, rows.factor);
    p.up.scale_rows(context_, rows.first, rows.count, rows.factor);
    for (std::int64_t i = 7 * 144; i < 9 * 144; ++i) p.x[static_cast<std::size_t>(i)] = 0;
    p.x_device = to_device(context_, round_to_bf16(p.x));
    SCOPED_TRACE(testing::Message() << rows.factor << " from " << rows.first);
    expect_quantized(p);
  }
}

/// Whatever a row's neighbours are: one row of each warp outgrows its first columns in one call and not in the other,
/// while others lie below the limit by less than a power of two. Dims from 136 on reach the later columns alone.
TEST_F(CudaGatedLinear, QuantizedRowsAreTheirOwn) {
  if (context_.cuda->capability != 90) GTEST_SKIP() << "one kernel makes them on a Hopper alone";
  Problem p = make({.rows = 512, .in = 144, .out = 400, .fp8 = true});
  const std::array<std::uint8_t, 8> zeros{};
  p.gate.scale_rows(context_, 192, 208, 8);
  p.up.scale_rows(context_, 192, 208, 4);
  for (const DeviceWeight* weight : {&p.gate, &p.up})
    for (std::int64_t o = 0; o < 192; ++o)
      upload(context_, weight->device.as<std::byte>() + o * 144 + 136, zeros.data(), zeros.size());
  const Quantized before = run_quantized(p);
  const auto is_changed = [](std::int64_t row) { return row % 16 == 5; };
  for (std::int64_t i = 0; i < 512 * 144; ++i)
    if (is_changed(i / 144) && i % 144 >= 136) p.x[static_cast<std::size_t>(i)] *= 64;
  p.x_device = to_device(context_, round_to_bf16(p.x));
  const Quantized after = run_quantized(p);
  std::int64_t near_limit = 0;
  for (std::int64_t row = 0; row < 512; ++row) {
    const auto at = static_cast<std::size_t>(row);
    float most = 0;
    for (std::size_t i = at * 400; i < (at + 1) * 400; ++i) {
      most = std::max(most, std::abs(to_float(before.codes[i])));
      ASSERT_TRUE(is_changed(row) || after.codes[i].bits == before.codes[i].bits) << "row " << row;
    }
    near_limit += !is_changed(row) && most >= 256 ? 1 : 0;
    if (is_changed(row))
      EXPECT_GT(after.scales[at], before.scales[at]) << "row " << row;
    else
      EXPECT_EQ(after.scales[at], before.scales[at]) << "row " << row;
  }
  EXPECT_GT(near_limit, 20) << "rows that a lower limit would widen beside one that is widened";
  expect_quantized(p);
}

/// A row with a value that is no number shows it; the others stay as they are.
TEST_F(CudaGatedLinear, QuantizedRowsThatAreNotFinite) {
  if (context_.cuda->capability != 90) GTEST_SKIP() << "one kernel makes them on a Hopper alone";
  Problem p = make({.rows = 300, .in = 144, .out = 400, .fp8 = true});
  const Quantized before = run_quantized(p);
  p.x[static_cast<std::size_t>(7 * 144 + 3)] = kNan;
  p.x[static_cast<std::size_t>(40 * 144 + 3)] = std::numeric_limits<float>::infinity();
  p.x_device = to_device(context_, round_to_bf16(p.x));
  const Quantized after = run_quantized(p);
  for (std::int64_t row = 0; row < 300; ++row) {
    std::int64_t nans = 0;
    for (std::int64_t i = row * 400; i < (row + 1) * 400; ++i) {
      const auto at = static_cast<std::size_t>(i);
      nans += (after.codes[at].bits & 0x7FU) == 0x7FU ? 1 : 0;
      ASSERT_TRUE(row == 7 || row == 40 || after.codes[at].bits == before.codes[at].bits) << "row " << row;
    }
    EXPECT_EQ(nans > 0, row == 7 || row == 40) << "row " << row;
  }
}

TEST_F(CudaGatedLinear, QuantizedRowsAreWholeAndOnSixteenBytes) {
  if (context_.cuda->capability != 90) GTEST_SKIP() << "one kernel makes them on a Hopper alone";
  const auto quantizes = [&](const Case& c) {
    Problem p = make(c);
    p.out = poisoned(context_, c.rows * p.out_stride() * 2);
    const GatedLinearParams params = p.device();
    const cuda::Operand x = cuda::prepare(context_, params.x, params.norm, params.gate.weight.dtype);
    return cuda::quantizes_gated(context_, x, params);
  };
  EXPECT_TRUE(quantizes({.rows = 300, .in = 144, .out = 208, .fp8 = true}));
  EXPECT_FALSE(quantizes({.rows = 300, .in = 144, .out = 200, .fp8 = true})) << "a column off 16";
  EXPECT_FALSE(quantizes({.rows = 300, .in = 144, .out = 208, .fp8 = true, .out_pad = 16})) << "gaps";
  EXPECT_FALSE(quantizes({.rows = 300, .in = 144, .out = 208})) << "bf16 weights";
  EXPECT_FALSE(quantizes({.rows = 255, .in = 144, .out = 208, .fp8 = true})) << "few rows";
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
