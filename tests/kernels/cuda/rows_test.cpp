#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/activation.h"
#include "kernels/embed.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "support/cuda.h"

namespace purekv {
namespace {

constexpr double kTolerance = 2e-5;  ///< NMSE of a bf16 result; one rounding costs 3e-6
constexpr double kFloatTolerance = 1e-12;

using Rows = CudaTest;

struct Size {
  std::int64_t rows, cols, pad;
  std::int64_t shift = 0;  ///< elements from an aligned address to the first row
};

/// Whole units and ragged ones, one row, one column, rows that start off 16 bytes, more than registers hold.
const std::vector<Size> kSizes = {{1, 1, 0},    {3, 7, 2},      {5, 8, 0},     {5, 8, 8, 8},    {4, 64, 3},
                                  {9, 1280, 0}, {7, 3584, 0},   {2, 3420, 0},  {2, 3584, 0, 1}, {6, 8192, 8},
                                  {3, 8200, 0}, {2, 18944, 24}, {300, 128, 0}, {70, 40, 0, 4}};

/// A matrix of random numbers in the middle of a larger buffer: what lies around must stay.
struct DeviceRows {
  Size size;
  std::vector<float> values;  ///< all of the buffer, rounded where it is bf16
  Buffer buffer;
  DType dtype;

  DeviceRows(const Context& context, const Size& s, DType type, std::mt19937& random, float scale = 1)
      : size(s), values(normal_floats(s.shift + s.rows * stride() + 8, random, scale)), dtype(type) {
    if (type == DType::kBF16)
      buffer = to_device(context, round_to_bf16(values));
    else
      buffer = to_device(context, values);
  }
  [[nodiscard]] std::int64_t stride() const { return size.cols + size.pad; }
  [[nodiscard]] MatrixView view() const {
    return {buffer.as<std::byte>() + size.shift * static_cast<std::int64_t>(size_of(dtype)), dtype, size.rows,
            size.cols, stride()};
  }
  [[nodiscard]] MatrixView host() { return {values.data() + size.shift, DType::kF32, size.rows, size.cols, stride()}; }
  [[nodiscard]] std::vector<float> download(const Context& context) const {
    const auto count = static_cast<std::int64_t>(values.size());
    if (dtype == DType::kBF16) return widen(to_host<std::uint16_t>(context, buffer.data(), count));
    return to_host<float>(context, buffer.data(), count);
  }
};

/// `got` against `want`, both whole buffers: close inside the matrix, `before` outside of it.
void expect_rows(const Size& size, const std::vector<float>& got, const std::vector<float>& want,
                 const std::vector<float>& before, double tolerance) {
  std::vector<float> inside;
  std::vector<float> expected;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::int64_t at = static_cast<std::int64_t>(i) - size.shift;
    const std::int64_t stride = size.cols + size.pad;
    if (at >= 0 && at < size.rows * stride && at % stride < size.cols) {
      inside.push_back(got[i]);
      expected.push_back(want[i]);
    } else {
      ASSERT_EQ(got[i], before[i]) << "outside of the matrix, element " << i;
    }
  }
  EXPECT_LE(nmse(inside, expected), tolerance) << size.rows << " x " << size.cols << " + " << size.shift;
}

TEST_F(Rows, RmsNormIsTheCpuOne) {
  std::mt19937 random(1);
  for (const Size& size : kSizes)
    for (const DType type : {DType::kBF16, DType::kF32}) {
      DeviceRows x(context_, size, DType::kF32, random, 3);
      DeviceRows out(context_, size, type, random);
      const std::vector<float> before = out.values;
      const std::vector<float> weight = normal_floats(size.cols, random);
      const Buffer weights = to_device(context_, weight);
      rms_norm(context_, {.x = x.view(), .weight = weights.as<float>(), .eps = 1e-5F, .out = out.view()});
      rms_norm(cpu_, {.x = x.host(), .weight = weight.data(), .eps = 1e-5F, .out = out.host()});
      expect_rows(size, out.download(context_), out.values, before,
                  type == DType::kBF16 ? kTolerance : kFloatTolerance);
      if (type == DType::kBF16) continue;
      rms_norm(context_, {.x = x.view(), .weight = weights.as<float>(), .eps = 1e-5F, .out = x.view()});
      rms_norm(cpu_, {.x = x.host(), .weight = weight.data(), .eps = 1e-5F, .out = x.host()});
      EXPECT_LE(nmse(x.download(context_), x.values), kFloatTolerance) << "in place";
    }
}

TEST_F(Rows, ActivationsAreTheCpuOnes) {
  std::mt19937 random(2);
  for (const Size& size : kSizes)
    for (const DType type : {DType::kBF16, DType::kF32}) {
      const double tolerance = type == DType::kBF16 ? kTolerance : kFloatTolerance;
      DeviceRows gate(context_, size, type, random, 4);
      DeviceRows up(context_, {size.rows, size.cols, size.pad + 8, size.shift}, type, random);
      std::vector<float> before = gate.values;
      swiglu(context_, gate.view(), up.view());
      swiglu(cpu_, gate.host(), up.host());
      expect_rows(size, gate.download(context_), gate.values, before, tolerance);
      DeviceRows x(context_, size, type, random, 4);
      before = x.values;
      gelu(context_, x.view());
      gelu(cpu_, x.host());
      expect_rows(size, x.download(context_), x.values, before, tolerance);
    }
}

TEST_F(Rows, EmbeddingIsExact) {
  std::mt19937 random(3);
  for (const Size& size : kSizes)
    for (const DType type : {DType::kBF16, DType::kF32}) {
      DeviceRows table(context_, {37, size.cols, size.pad, size.shift}, type, random);
      DeviceRows out(context_, size, DType::kF32, random);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(size.rows));
      for (auto& id : ids) id = static_cast<std::int32_t>(random() % 37);
      const Buffer device_ids = to_device(context_, ids);
      embed(context_, {.table = table.view(), .ids = device_ids.as<std::int32_t>(), .out = out.view()});
      embed(cpu_, {.table = table.host(), .ids = ids.data(), .out = out.host()});
      EXPECT_EQ(out.download(context_), out.values);
      DeviceRows narrow(context_, size, DType::kBF16, random);
      embed(context_, {.table = table.view(), .ids = device_ids.as<std::int32_t>(), .out = narrow.view()});
      embed(cpu_, {.table = table.host(), .ids = ids.data(), .out = narrow.host()});
      round_to_bf16(narrow.values);
      EXPECT_EQ(narrow.download(context_), narrow.values);
    }
}

/// A fused projection and the places of its keys and values, on both sides.
struct RopeCase {
  HeadShape shape;
  std::int64_t rows, pad;
  DeviceRows qkv, q, keys, values;
  std::vector<float> cos, sin;
  Buffer device_cos, device_sin;

  RopeCase(const Context& context, const HeadShape& s, std::int64_t r, std::int64_t p, std::int64_t shift,
           std::mt19937& random)
      : shape(s),
        rows(r),
        pad(p),
        qkv(context, {r, (s.heads + 2 * s.kv_heads) * s.head_dim, p, shift}, DType::kBF16, random),
        q(context, {r, s.heads * s.head_dim, p, shift}, DType::kBF16, random),
        keys(context, {s.kv_heads * r, s.head_dim, p, shift}, DType::kBF16, random),
        values(context, {s.kv_heads * r, s.head_dim, p, shift}, DType::kBF16, random),
        cos(normal_floats(r * s.head_dim / 2, random)),
        sin(normal_floats(r * s.head_dim / 2, random)),
        device_cos(to_device(context, cos)),
        device_sin(to_device(context, sin)) {}

  [[nodiscard]] RopeSplitParams device() const {
    return {.shape = shape,
            .qkv = qkv.view(),
            .cos = device_cos.as<float>(),
            .sin = device_sin.as<float>(),
            .q = q.view(),
            .keys = keys.view().data,
            .values = values.view().data,
            .kv_dtype = DType::kBF16,
            .head_stride = rows * (shape.head_dim + pad),
            .row_stride = shape.head_dim + pad};
  }
  [[nodiscard]] RopeSplitParams host() {
    RopeSplitParams params = device();
    params.qkv = qkv.host();
    params.cos = cos.data();
    params.sin = sin.data();
    params.q = q.host();
    params.keys = keys.host().data;
    params.values = values.host().data;
    params.kv_dtype = DType::kF32;
    return params;
  }
};

TEST_F(Rows, RopeSplitIsTheCpuOne) {
  std::mt19937 random(4);
  for (const std::int64_t head_dim : {2, 16, 40, 64, 80, 96, 128, 256})
    for (const auto& [heads, kv_heads] : {std::pair{7, 1}, {4, 4}, {28, 4}})
      for (const auto& [pad, shift] : {std::pair{0, 0}, {8, 8}, {3, 1}})
        for (const std::int64_t rows : {1, 37}) {
          RopeCase c(context_, {heads, kv_heads, head_dim}, rows, pad, shift, random);
          const std::vector<float> before[] = {c.q.values, c.keys.values, c.values.values};
          rope_split(context_, c.device());
          rope_split(cpu_, c.host());
          SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " heads " << heads << " pad " << pad);
          expect_rows(c.q.size, c.q.download(context_), c.q.values, before[0], kTolerance);
          expect_rows(c.keys.size, c.keys.download(context_), c.keys.values, before[1], kTolerance);
          EXPECT_EQ(c.values.download(context_), c.values.values) << "values are only stored";
          const std::vector<float> apart = c.q.download(context_);
          RopeSplitParams in_place = c.device();
          in_place.q = c.qkv.view().columns(0, heads * head_dim);
          rope_split(context_, in_place);
          const std::vector<float> own = c.qkv.download(context_);
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t i = 0; i < heads * head_dim; ++i)
              ASSERT_EQ(own[static_cast<std::size_t>(shift + r * c.qkv.stride() + i)],
                        apart[static_cast<std::size_t>(shift + r * c.q.stride() + i)])
                  << "queries in place";
        }
}

TEST_F(Rows, NaNPassesThrough) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int64_t cols : {64, 65}) {
    std::vector<float> x(static_cast<std::size_t>(2 * cols), 1.0F);
    x[3] = nan;
    const Buffer device = to_device(context_, x);
    const Buffer weight = to_device(context_, std::vector<float>(static_cast<std::size_t>(cols), 1.0F));
    const Buffer out = poisoned(context_, 2 * cols * 4);
    const MatrixView view{device.data(), DType::kF32, 2, cols, cols};
    rms_norm(context_, {.x = view, .weight = weight.as<float>(), .out = {out.data(), DType::kF32, 2, cols, cols}});
    const auto normed = to_host<float>(context_, out.data(), 2 * cols);
    EXPECT_TRUE(std::isnan(normed[0]) && std::isnan(normed[static_cast<std::size_t>(cols - 1)]));
    EXPECT_NEAR(normed[static_cast<std::size_t>(cols)], 1, 1e-5) << "the other row";
    swiglu(context_, view, view);
    EXPECT_TRUE(std::isnan(to_host<float>(context_, device.data(), 4)[3]));
    gelu(context_, view);
    EXPECT_TRUE(std::isnan(to_host<float>(context_, device.data(), 4)[3]));
  }
}

}  // namespace
}  // namespace purekv
