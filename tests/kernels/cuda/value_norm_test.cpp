#include "kernels/value_norm.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/value_norm_sm90.h"
#include "support/cuda.h"
#include "support/random.h"
#include "support/tables.h"

namespace purekv {
namespace {

constexpr double kMostNmse = 1e-6;  ///< 1e-3 of the norm

class CudaValueNorm : public CudaTest {
 protected:
  /// Values of which a third repeat the same cell of the frame before, and a third differ from it by little: novelty is
  /// small beside the values.
  std::vector<float> values(const HeadShape& shape, const FrameTable& table) {
    const std::int64_t d = shape.head_dim;
    std::vector<float> v = normal_floats(shape.kv_heads * table.rows * d, random_);
    for (std::int64_t h = 0; h < shape.kv_heads; ++h)
      for (std::int32_t row = 0; row < table.rows; ++row) {
        const std::int32_t before = table.previous_cell(row);
        if (before < 0 || row % 3 == 0) continue;
        float* now = v.data() + (h * table.rows + row) * d;
        const float* then = v.data() + (h * table.rows + before) * d;
        for (std::int64_t t = 0; t < d; ++t) now[t] = row % 3 == 1 ? then[t] : then[t] * (1 + 0.02F * now[t]);
      }
    return v;
  }

  /// Gram matrices of the same weight on both devices; returns the CPU's.
  std::vector<float> expect_gram(const HeadShape& shape, std::int64_t hidden, DType dtype, Buffer& grams) {
    const std::int64_t cols = shape.heads * shape.head_dim;
    std::vector<float> w = normal_floats(hidden * cols, random_, 0.02F);
    for (std::size_t i = 0; i < w.size(); i += 7) w[i] *= 4;
    const Buffer device = dtype == DType::kBF16 ? to_device(context_, round_to_bf16(w)) : to_device(context_, w);
    const std::int64_t count = shape.heads * shape.head_dim * shape.head_dim;
    std::vector<float> want(static_cast<std::size_t>(count));
    grams = poisoned(context_, count * 4);
    gram(cpu_, {.shape = shape, .w_o = {w.data(), DType::kF32, hidden, cols, cols}, .gram = want.data()});
    gram(context_, {.shape = shape, .w_o = {device.data(), dtype, hidden, cols, cols}, .gram = grams.as<float>()});
    EXPECT_LE(nmse(to_host<float>(context_, grams.data(), count), want), 1e-10);
    return want;
  }

  void expect_norms(const HeadShape& shape, const FrameTable& table, std::int64_t hidden, DType dtype) {
    std::vector<float> v = values(shape, table);
    const Buffer device_v = to_device(context_, round_to_bf16(v));
    Buffer grams;
    const std::vector<float> host_grams = expect_gram(shape, hidden, dtype, grams);
    const std::int64_t count = shape.kv_heads * table.rows;
    std::vector<float> l2(static_cast<std::size_t>(count));
    std::vector<float> out = l2;
    std::vector<float> nov = l2;
    ValueNormParams p{.shape = shape,
                      .kv = kv_view(shape, table.rows, v, v),
                      .gram = host_grams.data(),
                      .table = &table,
                      .l2 = l2.data(),
                      .out = out.data(),
                      .nov = nov.data()};
    value_norm(cpu_, p);
    p.kv = {DType::kBF16, {}};
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const auto* head = device_v.as<std::uint16_t>() + h * table.rows * shape.head_dim;
      p.kv.heads.push_back({head, head, table.rows, shape.head_dim});
    }
    p.gram = grams.as<float>();
    CudaDevice older = *context_.cuda;
    older.capability = 80;
    for (CudaDevice* device : {context_.cuda, &older}) {
      const std::string name =
          std::to_string(shape.head_dim) + " dims, kernel for " + std::to_string(device->capability);
      Context context = context_;
      context.cuda = device;
      ASSERT_TRUE(device->capability != 90 || shape.group() > 11 || cuda::value_norm_sm90_takes(context, shape))
          << name;
      const Buffer got[3] = {poisoned(context_, count * 4), poisoned(context_, count * 4),
                             poisoned(context_, count * 4)};
      const auto host = [&](int n) { return to_host<float>(context_, got[n].data(), count); };
      p.packed = nullptr;
      p.l2 = got[0].as<float>();
      p.out = got[1].as<float>();
      p.nov = got[2].as<float>();
      value_norm(context, p);
      EXPECT_LE(nmse(host(0), l2), kMostNmse) << name;
      EXPECT_LE(nmse(host(1), out), kMostNmse) << name;
      EXPECT_LE(nmse(host(2), nov), kMostNmse) << name;
      const std::vector<float> both = host(1);
      const Buffer packed = poisoned(context_, packed_gram_bytes(context, shape));
      cuda::pack_gram(context, shape, p.gram, packed.data());
      p.packed = packed.data();
      p.l2 = p.nov = nullptr;
      value_norm(context, p);
      EXPECT_EQ(host(1), both) << "alone or beside novelty, packed before or in the call: " << name;
    }
  }
  std::mt19937 random_{8};
};

TEST_F(CudaValueNorm, RealShapesAndOddOnes) {
  const FrameTable clips = make_table(5, {{4, 16, 16}, {3, 5, 7}}, 4, 9);
  const FrameTable grids = make_frame_table(25, {{1, 0, 0, 2, 3}, {7, 0, 1, 3, 2}, {13, 0, 2, 3, 2}});
  expect_norms({.heads = 28, .kv_heads = 4, .head_dim = 128}, clips, 3584, DType::kBF16);
  expect_norms({.heads = 14, .kv_heads = 2, .head_dim = 64}, clips, 896, DType::kBF16);
  expect_norms({.heads = 16, .kv_heads = 1, .head_dim = 128}, grids, 500, DType::kBF16);
  expect_norms({.heads = 3, .kv_heads = 3, .head_dim = 80}, clips, 240, DType::kF32);
  for (const std::int64_t head_dim : {12, 16, 64, 100})
    expect_norms({.heads = 6, .kv_heads = 2, .head_dim = head_dim}, grids, 77, DType::kBF16);
}

TEST_F(CudaValueNorm, MostKeyHeads) {
  const FrameTable table = make_table(3, {{3, 5, 9}}, 0, 6);
  expect_norms({.heads = 32, .kv_heads = 32, .head_dim = 128}, table, 60, DType::kBF16);
  expect_norms({.heads = 64, .kv_heads = 32, .head_dim = 64}, table, 60, DType::kBF16);
}

// Rows of zeros, of subnormal numbers and of huge ones each have their own scale.
TEST_F(CudaValueNorm, RowsOfAnyMagnitude) {
  const HeadShape shape{.heads = 2, .kv_heads = 1, .head_dim = 64};
  const float sizes[] = {0, 1e-39F, 1e-30F, 1e-10F, 1, 1e10F, 1e17F};
  std::vector<float> v = normal_floats(7 * 64, random_);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] *= sizes[i / 64];
  const Buffer device_v = to_device(context_, round_to_bf16(v));
  Buffer grams;
  const std::vector<float> host_grams = expect_gram(shape, 50, DType::kBF16, grams);
  const Buffer out = poisoned(context_, 7 * 4);
  value_norm(context_, {.shape = shape,
                        .kv = {DType::kBF16, {{device_v.data(), device_v.data(), 7, 64}}},
                        .gram = grams.as<float>(),
                        .out = out.as<float>()});
  const auto got = to_host<float>(context_, out.data(), 7);
  for (std::size_t row = 0; row < 7; ++row) {
    double want = 0;
    for (std::size_t h = 0; h < 2; ++h) {
      double square = 0;
      for (std::size_t i = 0; i < 64 * 64; ++i)
        square += static_cast<double>(v[row * 64 + i / 64]) * static_cast<double>(v[row * 64 + i % 64]) *
                  static_cast<double>(host_grams[h * 64 * 64 + i]);
      want += std::sqrt(square) / 2;
    }
    EXPECT_NEAR(got[row], want, 2e-3 * want + 1e-42) << row;
  }
}

}  // namespace
}  // namespace purekv
