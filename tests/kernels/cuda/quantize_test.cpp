#include "kernels/quantize.h"

#include <algorithm>
#include <limits>

#include "kernels/activation.h"
#include "kernels/cuda/quantize_fused.h"
#include "kernels/rms_norm.h"
#include "support/cuda.h"

namespace purekv {
namespace {

constexpr float kEps = 1e-5F;

struct Size {
  std::int64_t rows, cols, pad = 0;
  std::int64_t shift = 0;  ///< elements from an aligned address to the first row
  [[nodiscard]] std::int64_t stride() const { return cols + pad; }
  [[nodiscard]] std::int64_t places() const { return shift + rows * stride(); }
};

/// Rows that registers hold and rows that they do not, one row, ragged widths, rows off 16 bytes, padding.
const std::vector<Size> kSizes = {{1, 1},    {5, 7, 2},  {3, 16},       {4, 40, 8},      {5, 24, 0, 8},
                                  {3, 3420}, {1, 3584},  {7, 3584, 16}, {2, 3584, 0, 1}, {3, 8192},
                                  {2, 8208}, {3, 18944}, {2, 24576},    {2, 24592},      {700, 256}};

/// Rows of random numbers on both sides. The second is of zeros, the third so small that its scale would have no
/// inverse, the fourth holds a NaN.
struct Rows {
  Size size;
  DType dtype;
  std::vector<float> values;
  Buffer buffer;

  Rows(const Context& context, const Size& s, DType type, std::mt19937& random, float scale = 20)
      : size(s), dtype(type), values(normal_floats(s.places(), random, scale)) {
    fill(1, [](float) { return 0.0F; });
    fill(2, [](float x) { return x * 1e-38F; });
    if (size.rows > 3)
      values[static_cast<std::size_t>(size.shift + 3 * size.stride() + size.cols / 2)] =
          std::numeric_limits<float>::quiet_NaN();
    if (type == DType::kBF16)
      buffer = to_device(context, round_to_bf16(values));
    else
      buffer = to_device(context, values);
  }
  template <class F>
  void fill(std::int64_t row, F&& f) {
    if (row >= size.rows) return;
    const auto begin = values.begin() + size.shift + row * size.stride();
    std::transform(begin, begin + size.cols, begin, f);
  }
  [[nodiscard]] ConstMatrixView device() const {
    return {buffer.as<std::byte>() + size.shift * static_cast<std::int64_t>(size_of(dtype)), dtype, size.rows,
            size.cols, size.stride()};
  }
  [[nodiscard]] MatrixView host() {
    return {values.data() + size.shift, DType::kF32, size.rows, size.cols, size.stride()};
  }
};

/// e4m3 rows and their scales, poisoned before.
struct Quantized {
  Size size;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  Buffer device_codes, device_scales;

  Quantized(const Context& context, const Size& s)
      : size(s),
        codes(static_cast<std::size_t>(s.places()), 0xFF),
        scales(static_cast<std::size_t>(s.rows)),
        device_codes(poisoned(context, s.places())),
        device_scales(poisoned(context, 4 * s.rows)) {}
  [[nodiscard]] cuda::QuantizedRows device() const {
    return {{device_codes.as<std::byte>() + size.shift, DType::kFp8, size.rows, size.cols, size.stride()},
            device_scales.as<float>()};
  }
  void quantize_on_cpu(const Context& cpu, const MatrixView& in) {
    quantize_rows(cpu, {.in = in,
                        .out = {codes.data() + size.shift, DType::kFp8, size.rows, size.cols, size.stride()},
                        .scales = scales.data()});
  }

  /// Codes equal but for one step where a sum's rounding moved a value across a boundary; values near. Nothing
  /// outside of the rows is written.
  void expect_near(const Context& context, double tolerance) const {
    const auto got = to_host<std::uint8_t>(context, device_codes.data(), size.places());
    const auto got_scales = to_host<float>(context, device_scales.data(), size.rows);
    for (std::int64_t i = 0; i < size.places(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      const std::int64_t place = i - size.shift;
      if (place < 0 || place % size.stride() >= size.cols) {
        ASSERT_EQ(got[at], 0xFF) << "outside of the rows, element " << i;
        continue;
      }
      const auto row = static_cast<std::size_t>(place / size.stride());
      const float want = to_float(Float8{codes[at]}) * scales[row];
      const float value = to_float(Float8{got[at]}) * got_scales[row];
      if (std::isnan(scales[row])) {
        ASSERT_TRUE(std::isnan(value)) << "row " << row;
      } else {
        const double step = std::max({std::abs(want) / 8, scales[row] / 512, 1e-30F});
        ASSERT_LE(std::abs(value - want), tolerance * step)
            << "row " << row << " of " << size.rows << " x " << size.cols;
      }
    }
  }
};

using CudaQuantizeTest = CudaTest;

TEST_F(CudaQuantizeTest, RowsAsTheCpuDoes) {
  std::mt19937 random(3);
  for (const Size& size : kSizes)
    for (const DType type : {DType::kBF16, DType::kF32}) {
      Rows in(context_, size, type, random);
      Quantized out(context_, size);
      const cuda::QuantizedRows to = out.device();
      quantize_rows(context_, {.in = in.device(), .out = to.out, .scales = to.scales});
      out.quantize_on_cpu(cpu_, in.host());
      out.expect_near(context_, 0);
    }
}

TEST_F(CudaQuantizeTest, NormedRowsAreTheCpuOnes) {
  std::mt19937 random(4);
  for (const Size& size : kSizes)
    for (const DType type : {DType::kBF16, DType::kF32}) {
      Rows in(context_, size, type, random);
      const std::vector<float> weight = normal_floats(size.cols, random);
      const Buffer weights = to_device(context_, weight);
      Quantized out(context_, size);
      rms_norm_quantize(context_, in.device(), {.weight = weights.as<float>(), .eps = kEps, .work = {}}, out.device());
      rms_norm(cpu_, {.x = in.host(), .weight = weight.data(), .eps = kEps, .out = in.host()});
      out.quantize_on_cpu(cpu_, in.host());
      out.expect_near(context_, 1.01);
    }
}

TEST_F(CudaQuantizeTest, SwigluIsTheCpuOne) {
  std::mt19937 random(5);
  for (const Size& size : kSizes) {
    Rows gate(context_, size, DType::kBF16, random, 3);
    Rows up(context_, {size.rows, size.cols, size.pad + 16, size.shift}, DType::kBF16, random);
    Quantized out(context_, size);
    swiglu_quantize(context_, gate.device(), up.device(), out.device());
    swiglu(cpu_, gate.host(), up.host());
    out.quantize_on_cpu(cpu_, gate.host());
    out.expect_near(context_, 1.05);
  }
}

/// The error against exact rows is e4m3's own: 2^-4 / sqrt(3) relative, squared.
TEST_F(CudaQuantizeTest, NormedRowsComeBack) {
  std::mt19937 random(6);
  for (const Size& size : {Size{2, 3584}, Size{2, 3420}}) {
    Rows in(context_, size, DType::kBF16, random);
    in.values = normal_floats(size.places(), random, 3);
    in.buffer = to_device(context_, round_to_bf16(in.values));
    const std::vector<float> weight = normal_floats(size.cols, random);
    const Buffer weights = to_device(context_, weight);
    const Quantized out(context_, size);
    rms_norm_quantize(context_, in.device(), {.weight = weights.as<float>(), .eps = kEps, .work = {}}, out.device());
    rms_norm(cpu_, {.x = in.host(), .weight = weight.data(), .eps = kEps, .out = in.host()});
    const auto codes = to_host<std::uint8_t>(context_, out.device_codes.data(), size.places());
    const auto scales = to_host<float>(context_, out.device_scales.data(), size.rows);
    std::vector<float> got;
    for (std::size_t i = 0; i < codes.size(); ++i)
      got.push_back(to_float(Float8{codes[i]}) * scales[i / static_cast<std::size_t>(size.cols)]);
    EXPECT_LT(nmse(got, in.values), 2e-3) << size.cols;
  }
}

}  // namespace
}  // namespace purekv
