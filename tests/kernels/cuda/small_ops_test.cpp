#include <numeric>

#include "kernels/permute_rows.h"
#include "kernels/random_bits.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_table.h"
#include "support/cuda.h"

namespace purekv {
namespace {

using CudaSmallOpsTest = CudaTest;

TEST_F(CudaSmallOpsTest, PermutesRowsOfAnyWidth) {
  for (const std::int64_t cols : {1, 3, 8, 40, 1280})
    for (const std::int64_t group : {1, 4}) {
      const std::int64_t count = 37;
      std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
      std::iota(rows.rbegin(), rows.rend(), 0);
      std::vector<std::uint16_t> in(static_cast<std::size_t>(count * group * cols));
      std::iota(in.begin(), in.end(), std::uint16_t{1});
      std::vector<std::uint16_t> expected(in.size());
      const auto view = [&](void* data) { return MatrixView{data, DType::kBF16, count * group, cols, cols}; };
      permute_rows(cpu_, {.in = view(in.data()), .rows = rows.data(), .group = group, .out = view(expected.data())});
      const Buffer din = to_device(context_, in);
      const Buffer order = to_device(context_, rows);
      const Buffer out = poisoned(context_, din.bytes());
      permute_rows(context_,
                   {.in = view(din.data()), .rows = order.as<std::int32_t>(), .group = group, .out = view(out.data())});
      EXPECT_EQ(to_host<std::uint16_t>(context_, out.data(), static_cast<std::int64_t>(in.size())), expected);
    }
}

TEST_F(CudaSmallOpsTest, RandomBitsEqualTheCpus) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kFp8})
    for (const std::int64_t cols : {1, 3, 7, 64, 100003}) {
      const std::int64_t bytes = cols * static_cast<std::int64_t>(size_of(type));
      std::vector<std::uint8_t> expected(static_cast<std::size_t>(bytes));
      random_bits(cpu_, {expected.data(), type, 1, cols, cols}, 0x1p-3F, 5);
      const Buffer out = poisoned(context_, bytes);
      random_bits(context_, {out.data(), type, 1, cols, cols}, 0x1p-3F, 5);
      EXPECT_EQ(to_host<std::uint8_t>(context_, out.data(), bytes), expected) << name_of(type) << cols;
    }
}

TEST_F(CudaSmallOpsTest, NormsRowsOfBf16) {
  std::mt19937 random(4);
  for (const std::int64_t cols : {1, 9, 320, 1280, 9000}) {
    const std::int64_t rows = 3;
    std::vector<float> x = normal_floats(rows * cols, random, 5);
    const std::vector<float> weight = normal_floats(cols, random);
    const Buffer dx = to_device(context_, round_to_bf16(x));
    const Buffer dw = to_device(context_, weight);
    const Buffer out = poisoned(context_, rows * cols * 2);
    rms_norm(context_, {.x = {dx.data(), DType::kBF16, rows, cols, cols},
                        .weight = dw.as<float>(),
                        .out = {out.data(), DType::kBF16, rows, cols, cols}});
    std::vector<float> expected(x.size());
    rms_norm(cpu_, {.x = {x.data(), DType::kF32, rows, cols, cols},
                    .weight = weight.data(),
                    .out = {expected.data(), DType::kF32, rows, cols, cols}});
    EXPECT_LT(nmse(widen(to_host<std::uint16_t>(context_, out.data(), rows * cols)), expected), 1e-5) << cols;
  }
}

TEST_F(CudaSmallOpsTest, RopeTableIsAccurateFarOut) {
  const std::vector<std::int32_t> positions = {0, 1, 131071, 262143, 5, 6, 7, 8};
  const std::vector<float> frequency = {1.0F, 0.5F, 0.01F, 1e-6F, 0.9F};
  const std::vector<std::int32_t> axis = {0, 1, 0, 1, 0};
  std::vector<float> cos(20);
  std::vector<float> sin(20);
  RopeTableParams p{.positions = positions.data(),
                    .rows = 4,
                    .frequency = frequency.data(),
                    .axis = axis.data(),
                    .half = 5,
                    .cos = cos.data(),
                    .sin = sin.data()};
  rope_table(cpu_, p);
  const Buffer dp = to_device(context_, positions);
  const Buffer df = to_device(context_, frequency);
  const Buffer da = to_device(context_, axis);
  const Buffer dc = poisoned(context_, 80);
  const Buffer ds = poisoned(context_, 80);
  rope_table(context_, {.positions = dp.as<std::int32_t>(),
                        .rows = 4,
                        .frequency = df.as<float>(),
                        .axis = da.as<std::int32_t>(),
                        .half = 5,
                        .cos = dc.as<float>(),
                        .sin = ds.as<float>()});
  const auto gc = to_host<float>(context_, dc.data(), 20);
  const auto gs = to_host<float>(context_, ds.data(), 20);
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_NEAR(gc[i], cos[i], 1e-6);
    EXPECT_NEAR(gs[i], sin[i], 1e-6);
  }
}

}  // namespace
}  // namespace purekv
