#include "kernels/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/score_frame_sm90.h"
#include "kernels/cuda/score_window_sm90.h"
#include "support/cuda.h"
#include "support/random.h"
#include "support/tables.h"

namespace purekv {
namespace {

constexpr double kMostNmse = 5e-4;

/// Queries and keys of one layer, bf16 on the device and the same values as float32 on the host.
struct Layer {
  HeadShape shape;
  std::int64_t rows;
  std::vector<float> q, k;
  Buffer device_q, device_k;

  Layer(const Context& context, const HeadShape& s, std::int64_t l, float key_norm, std::mt19937& random)
      : shape(s),
        rows(l),
        q(normal_floats(l * s.heads * s.head_dim, random)),
        k(normal_floats(l * s.kv_heads * s.head_dim, random, key_norm)),
        device_q(to_device(context, round_to_bf16(q))),
        device_k(to_device(context, round_to_bf16(k))) {}

  [[nodiscard]] float scale() const { return 1.0F / std::sqrt(static_cast<float>(shape.head_dim)); }
  [[nodiscard]] ConstMatrixView queries(bool device) const {
    const std::int64_t width = shape.heads * shape.head_dim;
    if (device) return {device_q.data(), DType::kBF16, rows, width, width};
    return {q.data(), DType::kF32, rows, width, width};
  }
  [[nodiscard]] KvView kv(bool device) const {
    if (!device) return kv_view(shape, rows, k, k);
    KvView view{DType::kBF16, {}};
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      const auto* keys = device_k.as<std::uint16_t>() + h * rows * shape.head_dim;
      view.heads.push_back({keys, keys, rows, shape.head_dim});
    }
    return view;
  }
};

class CudaScore : public CudaTest {
 protected:
  /// Queries of rows outside the frames become NaN: no frame's scores may know of them.
  void poison_text(Layer& layer, const FrameTable& table) const {
    const std::int64_t width = layer.shape.heads * layer.shape.head_dim;
    std::vector<bool> is_text(static_cast<std::size_t>(table.rows), true);
    for (const FrameSpan& frame : table.frames) std::fill_n(is_text.begin() + frame.start, frame.rows(), false);
    for (std::int64_t row = 0; row < table.rows; ++row)
      if (is_text[static_cast<std::size_t>(row)])
        std::fill_n(layer.q.begin() + row * width, width, std::numeric_limits<float>::quiet_NaN());
    layer.device_q = to_device(context_, round_to_bf16(layer.q));
  }

  /// Both kernels that the GPU has. `hidden` lowers every row's log-sum-exp, as a pattern that hides keys of its own
  /// frame does.
  void expect_frames(const std::string& name, const HeadShape& shape, const FrameTable& table, float key_norm,
                     float hidden, bool text_is_nan = false) {
    Layer layer(context_, shape, table.rows, key_norm, random_);
    if (text_is_nan) poison_text(layer, table);
    std::vector<float> lse = normal_floats(shape.heads * table.rows, random_);
    for (float& x : lse) x += std::log(static_cast<float>(table.rows)) + key_norm * key_norm - hidden;
    const Buffer device_lse = to_device(context_, lse);
    const std::int64_t count = shape.kv_heads * table.rows;
    std::vector<float> local(static_cast<std::size_t>(count));
    std::vector<float> self = local;
    FrameScoreParams p{.shape = shape,
                       .scale = layer.scale(),
                       .table = &table,
                       .q = layer.queries(false),
                       .kv = layer.kv(false),
                       .lse = lse.data(),
                       .local = local.data(),
                       .self = self.data()};
    frame_score(cpu_, p);
    const std::vector<float> poison(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
    const Buffer out_local(context_, count * 4);
    const Buffer out_self(context_, count * 4);
    p = {.shape = shape,
         .scale = layer.scale(),
         .table = &table,
         .q = layer.queries(true),
         .kv = layer.kv(true),
         .lse = device_lse.as<float>(),
         .local = out_local.as<float>(),
         .self = out_self.as<float>()};
    CudaDevice older = *context_.cuda;
    older.capability = 80;
    for (CudaDevice* device : {context_.cuda, &older}) {
      Context context = context_;
      context.cuda = device;
      const bool is_meant = shape.head_dim % 8 == 0 && shape.group() <= 128;
      ASSERT_EQ(cuda::score_frame_sm90_takes(context, p), is_meant && device->capability == 90) << name;
      upload(context, out_local.data(), poison.data(), count * 4);
      upload(context, out_self.data(), poison.data(), count * 4);
      frame_score(context, p);
      const auto got_local = to_host<float>(context_, out_local.data(), count);
      const auto got_self = to_host<float>(context_, out_self.data(), count);
      EXPECT_LE(nmse(got_local, local), kMostNmse) << name << ", kernel for " << device->capability;
      EXPECT_LE(nmse(got_self, self), kMostNmse) << name << ", kernel for " << device->capability;
      frame_score(context, p);
      EXPECT_EQ(to_host<float>(context_, out_local.data(), count), got_local) << "the same bits from run to run";
      EXPECT_EQ(to_host<float>(context_, out_self.data(), count), got_self);
    }
  }

  /// Log-sum-exps of the window's rows; NaN elsewhere, where nobody may look.
  static std::vector<float> window_lse(const Layer& layer, std::int64_t window) {
    const HeadShape& s = layer.shape;
    std::vector<float> lse(static_cast<std::size_t>(s.heads * layer.rows), std::numeric_limits<float>::quiet_NaN());
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t i = layer.rows - window; i < layer.rows; ++i) {
        double sum = 0;
        for (std::int64_t j = 0; j <= i; ++j) {
          float dot = 0;
          for (std::int64_t t = 0; t < s.head_dim; ++t)
            dot += layer.q[static_cast<std::size_t>((i * s.heads + h) * s.head_dim + t)] *
                   layer.k[static_cast<std::size_t>((h / s.group() * layer.rows + j) * s.head_dim + t)];
          sum += std::exp(static_cast<double>(dot * layer.scale()));
        }
        lse[static_cast<std::size_t>(h * layer.rows + i)] = static_cast<float>(std::log(sum));
      }
    return lse;
  }

  void expect_window(const HeadShape& shape, std::int64_t rows, std::int64_t window, float key_norm) {
    const Layer layer(context_, shape, rows, key_norm, random_);
    const std::int64_t count = shape.kv_heads * (rows - window);
    const Buffer lse = to_device(context_, window_lse(layer, window));
    const std::vector<float> poison(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
    for (const int reductions : {0, 1, 2, 3}) {
      std::vector<float> want(static_cast<std::size_t>(count));
      const Buffer out(context_, count * 4);
      WindowScoreParams p{.shape = shape,
                          .scale = layer.scale(),
                          .q = layer.queries(false),
                          .kv = layer.kv(false),
                          .window = window,
                          .row_max = (reductions & 1) != 0,
                          .group_max = (reductions & 2) != 0,
                          .out = want.data()};
      window_score(cpu_, p);
      p.q = layer.queries(true);
      p.kv = layer.kv(true);
      p.out = out.as<float>();
      CudaDevice older = *context_.cuda;
      older.capability = 80;
      for (CudaDevice* device : {context_.cuda, &older})
        for (const float* known : {static_cast<const float*>(nullptr), lse.as<const float>()}) {
          Context context = context_;
          context.cuda = device;
          const bool is_meant = shape.group() * ((window + 63) / 64) <= 13;
          ASSERT_TRUE(device->capability != 90 || !is_meant || cuda::score_window_sm90_takes(context, shape, window));
          upload(context, out.data(), poison.data(), count * 4);
          p.lse = known;
          window_score(context, p);
          EXPECT_LE(nmse(to_host<float>(context_, out.data(), count), want), kMostNmse)
              << rows << " rows, window " << window << ", reductions " << reductions << ", kernel for "
              << device->capability << (known == nullptr ? "" : ", known log-sum-exps");
        }
    }
  }
  std::mt19937 random_{7};
};

TEST_F(CudaScore, FramesOfEveryEdgeTable) {
  for (const NamedTable& edge : edge_tables())
    for (const float hidden : {0.0F, 20.0F, 200.0F})
      expect_frames(edge.name, {.heads = 4, .kv_heads = 2, .head_dim = 8}, edge.table, 1, hidden);
}

TEST_F(CudaScore, FramesOfRealShapesAndOddOnes) {
  const FrameTable even = make_table(5, {{3, 16, 16}}, 0, 9);
  const FrameTable odd = make_table(3, {{2, 9, 7}, {4, 1, 5}}, 2, 40);
  expect_frames("group 7", {.heads = 28, .kv_heads = 4, .head_dim = 128}, even, 1, 0);
  expect_frames("large keys", {.heads = 28, .kv_heads = 4, .head_dim = 128}, even, 6, 0);
  expect_frames("large frame", {.heads = 7, .kv_heads = 1, .head_dim = 128}, make_table(5, {{2, 37, 41}}, 0, 9), 1, 3);
  for (const std::int64_t head_dim : {12, 16, 64, 80, 100, 128})
    expect_frames("odd grids", {.heads = 9, .kv_heads = 3, .head_dim = head_dim}, odd, 2, 0);
  expect_frames("one key head", {.heads = 32, .kv_heads = 1, .head_dim = 64}, odd, 1, 0);
}

/// Around the steps of 128 keys and the tiles of 256 rows, each frame alone in its clip.
TEST_F(CudaScore, FramesAroundTheStepsOfTheKernels) {
  const FrameTable steps =
      make_table(3, {{1, 1, 127}, {2, 8, 16}, {1, 3, 43}, {1, 16, 16}, {1, 1, 257}, {1, 16, 24}, {1, 5, 77}}, 2, 30);
  for (const std::int64_t head_dim : {72, 96})
    expect_frames("steps", {.heads = 6, .kv_heads = 2, .head_dim = head_dim}, steps, 2, 3);
  expect_frames("steps, group 7", {.heads = 7, .kv_heads = 1, .head_dim = 128}, steps, 2, 0);
  expect_frames("steps, group 1", {.heads = 2, .kv_heads = 2, .head_dim = 64}, steps, 2, 0);
}

/// Around the halves of 128 keys and the tiles of 64 rows of the kernel for frames of up to 256 cells, and its products
/// of 32, 64 and 96 keys; the last groups fill a tile and are too large for one.
TEST_F(CudaScore, FramesOfUpTo256Cells) {
  const FrameTable small = make_table(
      3, {{2, 16, 16}, {1, 5, 51}, {1, 1, 193}, {3, 12, 16}, {1, 1, 129}, {1, 8, 16}, {1, 5, 13}, {2, 8, 8}, {1, 1, 1}},
      2, 30);
  for (const std::int64_t head_dim : {64, 72, 128})
    expect_frames("group 7", {.heads = 14, .kv_heads = 2, .head_dim = head_dim}, small, 2, 3);
  for (const std::int64_t group : {1, 2, 48, 64, 65})
    expect_frames("group " + std::to_string(group), {.heads = group, .kv_heads = 1, .head_dim = 128}, small, 2, 0);
  const FrameTable many = make_table(9, {{150, 4, 5}, {60, 9, 12}, {40, 14, 14}}, 0, 9);
  expect_frames("many items", {.heads = 14, .kv_heads = 2, .head_dim = 128}, many, 1, 0);
}

/// A frame's last tile of queries has one cell and reads text rows behind it: a warp, or all but one, has no row.
TEST_F(CudaScore, TextBehindAFrameStaysOutside) {
  for (const std::int64_t head_dim : {64, 128}) {
    expect_frames("10 cells", {.heads = 7, .kv_heads = 1, .head_dim = head_dim}, make_table(5, {{1, 2, 5}}, 0, 40), 1,
                  0, true);
    expect_frames("136 cells", {.heads = 14, .kv_heads = 2, .head_dim = head_dim}, make_table(5, {{1, 1, 136}}, 0, 40),
                  1, 0, true);
    expect_frames("260 cells", {.heads = 7, .kv_heads = 1, .head_dim = head_dim}, make_table(5, {{1, 13, 20}}, 0, 40),
                  1, 0, true);
    expect_frames("group 24", {.heads = 24, .kv_heads = 1, .head_dim = head_dim}, make_table(5, {{1, 3, 3}}, 0, 40), 1,
                  0, true);
  }
}

TEST_F(CudaScore, MostKeyHeads) {
  const FrameTable table = make_table(5, {{3, 5, 9}}, 0, 9);
  expect_frames("32 key heads", {.heads = 32, .kv_heads = 32, .head_dim = 128}, table, 1, 0);
  expect_frames("32 key heads of two", {.heads = 64, .kv_heads = 32, .head_dim = 64}, table, 1, 0);
  expect_window({.heads = 32, .kv_heads = 32, .head_dim = 128}, 333, 17, 1);
  expect_window({.heads = 64, .kv_heads = 32, .head_dim = 64}, 200, 64, 1);
}

TEST_F(CudaScore, WindowsOfAnySizeAndEveryReduction) {
  for (const std::int64_t window : {1, 7, 16, 33, 64, 100, 300})
    expect_window({.heads = 28, .kv_heads = 4, .head_dim = 128}, 1111, window, 1);
  expect_window({.heads = 14, .kv_heads = 2, .head_dim = 64}, 5000, 40, 5);
  expect_window({.heads = 6, .kv_heads = 2, .head_dim = 10}, 90, 19, 1);
  expect_window({.heads = 4, .kv_heads = 4, .head_dim = 32}, 2, 1, 1);
}

}  // namespace
}  // namespace purekv
