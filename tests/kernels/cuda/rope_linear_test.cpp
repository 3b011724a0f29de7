#include "kernels/rope_linear.h"

#include <cmath>
#include <limits>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/operand.h"
#include "kernels/cuda/rope_linear_sm90.h"
#include "purekv/error.h"
#include "support/cuda.h"
#include "support/device_weight.h"

namespace purekv {
namespace {

/// bf16 rounding of the output, and of the product where it is stored.
constexpr double kBound = 5e-4;
/// e4m3 keeps three bits of a value of x: 2^-4 / sqrt(3) relative, squared.
constexpr double kFp8Bound = 2e-3;

struct Case {
  std::int64_t rows, in;
  HeadShape shape;
  bool bias = true, fp8 = false;
  std::int64_t x_pad = 0, q_pad = 0, kv_pad = 0;  ///< elements behind each row
  std::int64_t rows_behind = 0;                   ///< of a head's keys and values, of later chunks
  bool has_work = true;                           ///< the caller gives memory for the product

  [[nodiscard]] std::int64_t cols() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }
  [[nodiscard]] std::int64_t q_cols() const { return shape.heads * shape.head_dim; }
  [[nodiscard]] std::int64_t q_stride() const { return q_cols() + q_pad; }
  [[nodiscard]] std::int64_t kv_stride() const { return shape.head_dim + kv_pad; }
  [[nodiscard]] std::int64_t head_stride() const { return (rows + rows_behind) * kv_stride(); }
};

/// q, keys and values as they lie, gaps between rows among them.
template <class T>
struct Parts {
  std::vector<T> q, keys, values;
  bool operator==(const Parts&) const = default;
};

struct Problem {
  Case size;
  DeviceWeight w;
  std::vector<float> x, cos, sin;
  Buffer x_device = {}, cos_device = {}, sin_device = {}, work = {}, q = {}, keys = {}, values = {};

  [[nodiscard]] std::int64_t x_stride() const { return size.in + size.x_pad; }

  [[nodiscard]] RopeLinearParams device() const {
    const Case& c = size;
    return {.x = {x_device.data(), DType::kBF16, c.rows, c.in, x_stride()},
            .norm = {},
            .w = w.operand(c.bias),
            .work = {c.has_work ? work.data() : nullptr, DType::kBF16, c.rows, c.cols(), c.cols()},
            .to = {.shape = c.shape,
                   .cos = cos_device.as<float>(),
                   .sin = sin_device.as<float>(),
                   .q = {q.data(), DType::kBF16, c.rows, c.q_cols(), c.q_stride()},
                   .keys = keys.data(),
                   .values = values.data(),
                   .kv_dtype = DType::kBF16,
                   .head_stride = c.head_stride(),
                   .row_stride = c.kv_stride()}};
  }
};

class CudaRopeLinear : public CudaTest {
 protected:
  Problem make(const Case& c) {
    const std::int64_t half = c.shape.head_dim / 2;
    Problem p{.size = c,
              .w = DeviceWeight(context_, c.cols(), c.in, c.fp8, random_),
              .x = normal_floats(c.rows * (c.in + c.x_pad), random_, 3),
              .cos = {},
              .sin = {}};
    for (const float angle : normal_floats(c.rows * half, random_, 3)) {
      p.cos.push_back(std::cos(angle));
      p.sin.push_back(std::sin(angle));
    }
    set_x(p);
    p.cos_device = to_device(context_, p.cos);
    p.sin_device = to_device(context_, p.sin);
    poison(p);
    return p;
  }

  void set_x(Problem& p) const {
    std::vector<std::uint16_t> bits = round_to_bf16(p.x);
    for (std::size_t i = 0; i < bits.size(); ++i)  // nobody may read between rows
      if (static_cast<std::int64_t>(i) % p.x_stride() >= p.size.in) bits[i] = 0x7FC0;
    p.x_device = to_device(context_, bits);
  }

  void poison(Problem& p) const {
    const Case& c = p.size;
    p.work = poisoned(context_, c.rows * c.cols() * 2);
    p.q = poisoned(context_, c.rows * c.q_stride() * 2);
    p.keys = poisoned(context_, c.shape.kv_heads * c.head_stride() * 2);
    p.values = poisoned(context_, c.shape.kv_heads * c.head_stride() * 2);
  }

  [[nodiscard]] bool is_fused(const Problem& p) const {
    const RopeLinearParams params = p.device();
    const cuda::Operand x = cuda::prepare(context_, params.x, params.norm, params.w.weight.dtype);
    return cuda::rope_sm90_takes(context_,
                                 {.x = x.x, .x_scales = x.scales.as<float>(), .w = params.w, .to = params.to});
  }

  Parts<std::uint16_t> run(Problem& p) const {
    poison(p);
    rope_linear(context_, p.device());
    return parts(p);
  }

  Parts<std::uint16_t> parts(const Problem& p) const {
    const auto all = [&](const Buffer& b) { return to_host<std::uint16_t>(context_, b.data(), b.bytes() / 2); };
    return {all(p.q), all(p.keys), all(p.values)};
  }

  /// The CPU twin's, in the same places; gaps are zero.
  Parts<float> on_host(const Problem& p, const NormOperand& norm = {}) const {
    const Case& c = p.size;
    const auto kv = static_cast<std::size_t>(c.shape.kv_heads * c.head_stride());
    Parts<float> out{std::vector<float>(static_cast<std::size_t>(c.rows * c.q_stride())), std::vector<float>(kv),
                     std::vector<float>(kv)};
    std::vector<float> work(static_cast<std::size_t>(c.rows * c.cols()));
    RopeLinearParams params = p.device();
    params.x = {p.x.data(), DType::kF32, c.rows, c.in, p.x_stride()};
    params.norm = norm;
    params.w = p.w.host_operand(c.bias);
    params.work = {work.data(), DType::kF32, c.rows, c.cols(), c.cols()};
    params.to.cos = p.cos.data();
    params.to.sin = p.sin.data();
    params.to.q = {out.q.data(), DType::kF32, c.rows, c.q_cols(), c.q_stride()};
    params.to.keys = out.keys.data();
    params.to.values = out.values.data();
    params.to.kv_dtype = DType::kF32;
    rope_linear(cpu_, params);
    return out;
  }

  /// Rows of `cols` in rows of `stride`, `rows` of every `of`: what lies between them must stay poisoned; gone there.
  static std::vector<float> inside(std::vector<std::uint16_t> bits, std::int64_t cols, std::int64_t stride,
                                   std::int64_t rows, std::int64_t of) {
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (at % stride < cols && at / stride % of < rows) continue;
      EXPECT_EQ(bits[i], 0xFFFF) << "outside, at " << i;
      bits[i] = 0;
    }
    return widen(bits);
  }

  Parts<float> inside(const Problem& p, const Parts<std::uint16_t>& got) const {
    const Case& c = p.size;
    const std::int64_t of = c.rows + c.rows_behind;
    return {inside(got.q, c.q_cols(), c.q_stride(), c.rows, c.rows),
            inside(got.keys, c.shape.head_dim, c.kv_stride(), c.rows, of),
            inside(got.values, c.shape.head_dim, c.kv_stride(), c.rows, of)};
  }

  /// `fused`: one kernel makes it where the device is a Hopper.
  void expect_near(const Case& c, bool fused) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.in << "+" << c.x_pad << ", heads " << c.shape.heads << " "
                                    << c.shape.kv_heads << " of " << c.shape.head_dim << (c.bias ? " bias" : "")
                                    << (c.fp8 ? " fp8" : ""));
    Problem p = make(c);
    ASSERT_EQ(is_fused(p), fused && context_.cuda->capability == 90);
    const Parts<std::uint16_t> got = run(p);
    const Parts<float> have = inside(p, got);
    const Parts<float> want = on_host(p);
    const double bound = c.fp8 ? kFp8Bound : kBound;
    EXPECT_LT(nmse(have.q, want.q), bound);
    EXPECT_LT(nmse(have.keys, want.keys), bound);
    EXPECT_LT(nmse(have.values, want.values), bound);
    EXPECT_EQ(run(p), got) << "the same bits from run to run";
  }

  std::mt19937 random_{37};
};

TEST_F(CudaRopeLinear, FewRowsGoThroughTheProduct) {
  for (const std::int64_t rows : {1, 5, 100, 255})
    expect_near({.rows = rows, .in = 256, .shape = {6, 2, 128}, .rows_behind = 3}, false);
  expect_near({.rows = 70, .in = 256, .shape = {6, 2, 64}, .has_work = false}, false);
}

/// Around its tiles of 256 rows and 128 columns, two of them a cluster, its stages of 64 values and the steps at which
/// it reads angles; heads that end within a tile, of one kind or another.
TEST_F(CudaRopeLinear, OneKernelAroundItsTiles) {
  for (const std::int64_t rows : {256, 257, 384, 511, 513})
    for (const std::int64_t in : {8, 64, 72, 192, 256, 320})
      expect_near({.rows = rows, .in = in, .shape = {4, 1, 128}, .bias = rows % 2 == 0, .rows_behind = rows % 3}, true);
  for (const std::int64_t head_dim : {64, 128})
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {7, 1}, {8, 2}, {3, 3}, {12, 2}, {28, 4}})
      expect_near({.rows = 300, .in = 136, .shape = {heads, kv_heads, head_dim}, .rows_behind = 5}, true);
  for (const std::int64_t in : {64, 128, 192, 256, 320})  // more tiles than the device has blocks
    expect_near({.rows = 5000, .in = in, .shape = {6, 1, 128}, .bias = in != 256}, true);
  expect_near({.rows = 5000, .in = 128, .shape = {14, 1, 64}}, true);
  expect_near({.rows = 600, .in = 2120, .shape = {16, 2, 128}}, true);  // the ring turns many times within a tile
}

TEST_F(CudaRopeLinear, QueriesOrKeysAlone) {
  for (const std::int64_t head_dim : {64, 128}) {
    expect_near({.rows = 400, .in = 128, .shape = {5, 0, head_dim}}, true);
    expect_near({.rows = 400, .in = 128, .shape = {0, 3, head_dim}, .rows_behind = 9}, true);
  }
}

TEST_F(CudaRopeLinear, Fp8) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t rows : {64, 256, 321, 700})
    for (const std::int64_t in : {16, 128, 144, 640})
      for (const std::int64_t head_dim : {64, 128})
        expect_near({.rows = rows, .in = in, .shape = {4, 1, head_dim}, .bias = rows != 321, .fp8 = true}, rows >= 256);
}

TEST_F(CudaRopeLinear, Fp8OfMoreTilesThanBlocks) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t in : {128, 256, 640})
    expect_near({.rows = 5000, .in = in, .shape = {6, 1, 128}, .bias = in != 256, .fp8 = true}, true);
}

/// rms_norm before the product, by parts and in one kernel.
TEST_F(CudaRopeLinear, NormedRows) {
  for (const bool fp8 : {false, true}) {
    if (fp8 && !has_fp8(context_)) continue;
    for (const std::int64_t rows : {100, 300}) {
      Problem p = make({.rows = rows, .in = 256, .shape = {3, 1, 128}, .fp8 = fp8});
      const std::vector<float> weight = normal_floats(256, random_);
      const Buffer device_weight = to_device(context_, weight);
      const Buffer device_normed = poisoned(context_, rows * 256 * 2);
      std::vector<float> normed(static_cast<std::size_t>(rows * 256));
      const Parts<float> want =
          on_host(p, {.weight = weight.data(), .eps = 1e-5F, .work = {normed.data(), DType::kF32, rows, 256, 256}});
      RopeLinearParams params = p.device();
      params.norm = {.weight = device_weight.as<float>(),
                     .eps = 1e-5F,
                     .work = {device_normed.data(), DType::kBF16, rows, 256, 256}};
      rope_linear(context_, params);
      const Parts<float> got = inside(p, parts(p));
      const double bound = fp8 ? kFp8Bound : kBound;
      EXPECT_LT(nmse(got.q, want.q), bound) << rows;
      EXPECT_LT(nmse(got.keys, want.keys), bound) << rows;
      EXPECT_LT(nmse(got.values, want.values), bound) << rows;
    }
  }
}

TEST_F(CudaRopeLinear, StridedRows) {
  expect_near({.rows = 300, .in = 136, .shape = {3, 1, 128}, .x_pad = 8}, true);
  expect_near({.rows = 300, .in = 136, .shape = {3, 1, 64}, .q_pad = 8, .kv_pad = 16, .rows_behind = 7}, true);
}

/// Whatever the kernel or the copy engine cannot take goes through the product, with and without memory for it.
TEST_F(CudaRopeLinear, OtherShapesFallBack) {
  for (const bool has_work : {true, false}) {
    for (const std::int64_t head_dim : {32, 80, 96, 256})
      expect_near({.rows = 300, .in = 136, .shape = {3, 1, head_dim}, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 132, .shape = {3, 1, 128}, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .shape = {3, 1, 128}, .x_pad = 4, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .shape = {3, 1, 128}, .q_pad = 4, .has_work = has_work}, false);
    expect_near({.rows = 300, .in = 136, .shape = {3, 1, 128}, .kv_pad = 4, .has_work = has_work}, false);
  }
}

/// fp8 rows off 16 bytes: neither the kernel nor, on the devices known, cuBLASLt takes them. No wrong result.
TEST_F(CudaRopeLinear, Fp8RowsOffSixteenBytesAreRightOrRefused) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const bool has_work : {true, false}) {
    Problem p = make({.rows = 300, .in = 136, .shape = {3, 1, 128}, .fp8 = true, .has_work = has_work});
    ASSERT_FALSE(is_fused(p));
    try {
      EXPECT_LT(nmse(inside(p, run(p)).q, on_host(p).q), kFp8Bound);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kResource) << error.what();
    }
  }
}

/// A NaN of x reaches its row and no other.
TEST_F(CudaRopeLinear, NotANumberPasses) {
  for (const bool fp8 : {false, true}) {
    if (fp8 && !has_fp8(context_)) continue;
    Problem p = make({.rows = 300, .in = 144, .shape = {3, 1, 128}, .fp8 = fp8});
    p.x[static_cast<std::size_t>(297 * 144 + 77)] = std::numeric_limits<float>::quiet_NaN();
    set_x(p);
    const Parts<float> got = inside(p, run(p));
    for (std::int64_t row = 0; row < 300; ++row) {
      for (std::int64_t i = 0; i < 384; ++i)
        ASSERT_EQ(std::isnan(got.q[static_cast<std::size_t>(row * 384 + i)]), row == 297) << row << (fp8 ? " fp8" : "");
      for (std::int64_t i = 0; i < 128; ++i) {
        ASSERT_EQ(std::isnan(got.keys[static_cast<std::size_t>(row * 128 + i)]), row == 297) << row;
        ASSERT_EQ(std::isnan(got.values[static_cast<std::size_t>(row * 128 + i)]), row == 297) << row;
      }
    }
  }
}

}  // namespace
}  // namespace purekv
