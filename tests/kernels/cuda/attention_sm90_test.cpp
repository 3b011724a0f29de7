#include "kernels/cuda/attention_sm90.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/attention_sm90_tiles.h"
#include "sparse/plan.h"
#include "support/cuda.h"

namespace purekv {
namespace {

constexpr std::int32_t kWholeBlocks = 1 << 28;

/// The Hopper kernel against its CPU twin on the same bf16 values.
class AttentionSm90Test : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (context_.cuda->capability != 90) GTEST_SKIP() << "compute capability 9.0 only";
  }

  struct Shape {
    std::int64_t heads = 28, kv_heads = 4, head_dim = 128;
    std::int64_t keys = 0;     ///< 0: as many as query rows
    float key_scale = 1;       ///< large: the running maximum moves
    std::int64_t padding = 0;  ///< columns of other things beside q's and out's
  };

  static std::int64_t rows_of(const AttentionPlan& plan) {
    std::int64_t rows = 0;
    for (const QueryBlock& block : plan.blocks) rows += block.count;
    return rows;
  }

  /// Runs both and compares; returns the GPU's bits of the output.
  std::vector<std::uint16_t> check(const Shape& shape, const AttentionPlan& plan) {
    const std::int64_t rows = rows_of(plan);
    const std::int64_t keys = shape.keys > 0 ? shape.keys : rows;
    const std::int64_t cols = shape.heads * shape.head_dim;
    const std::int64_t stride = cols + shape.padding;
    std::vector<float> q = normal_floats(rows * stride, random_);
    std::vector<float> k = normal_floats(shape.kv_heads * keys * shape.head_dim, random_, shape.key_scale);
    std::vector<float> v = normal_floats(shape.kv_heads * keys * shape.head_dim, random_);
    const Buffer q_gpu = to_device(context_, round_to_bf16(q));
    const Buffer k_gpu = to_device(context_, round_to_bf16(k));
    const Buffer v_gpu = to_device(context_, round_to_bf16(v));
    const Buffer out_gpu = poisoned(context_, rows * stride * 2);
    const Buffer lse_gpu = poisoned(context_, rows * shape.heads * 4);
    std::vector<float> out(static_cast<std::size_t>(rows * stride));
    std::vector<float> lse(static_cast<std::size_t>(rows * shape.heads));
    const auto params = [&](DType type, void* q_data, void* k_data, void* v_data, void* o_data, float* l) {
      AttentionParams p{.shape = {shape.heads, shape.kv_heads, shape.head_dim},
                        .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim)),
                        .q = {q_data, type, rows, cols, stride},
                        .cached = {},
                        .fresh = {.dtype = type, .heads = {}},
                        .plan = &plan,
                        .out = {o_data, type, rows, cols, stride},
                        .lse = l};
      for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
        const auto offset = static_cast<std::size_t>(h * keys * shape.head_dim) * size_of(type);
        p.fresh.heads.push_back(
            {static_cast<std::byte*>(k_data) + offset, static_cast<std::byte*>(v_data) + offset, keys, shape.head_dim});
      }
      return p;
    };
    attention(cpu_, params(DType::kF32, q.data(), k.data(), v.data(), out.data(), lse.data()));
    const AttentionParams on_gpu =
        params(DType::kBF16, q_gpu.data(), k_gpu.data(), v_gpu.data(), out_gpu.data(), lse_gpu.as<float>());
    EXPECT_TRUE(cuda::attention_sm90_takes(context_, on_gpu));
    cuda::attention_sm90(context_, on_gpu);
    const auto bits = to_host<std::uint16_t>(context_, out_gpu.data(), rows * stride);
    compare(shape, rows, widen(bits), out);
    compare_lse(to_host<float>(context_, lse_gpu.data(), rows * shape.heads), lse);
    // The same call again: same bits, whoever took which tile.
    cuda::attention_sm90(context_, on_gpu);
    EXPECT_EQ(to_host<std::uint16_t>(context_, out_gpu.data(), rows * stride), bits);
    return bits;
  }

  static void compare(const Shape& shape, std::int64_t rows, const std::vector<float>& gpu,
                      const std::vector<float>& cpu) {
    const auto cols = static_cast<std::size_t>(shape.heads * shape.head_dim);
    const std::size_t stride = cols + static_cast<std::size_t>(shape.padding);
    std::vector<float> a;
    std::vector<float> b;
    for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row)
      for (std::size_t i = 0; i < stride; ++i) {
        if (i >= cols) {
          ASSERT_TRUE(std::isnan(gpu[row * stride + i])) << "row " << row << ": wrote beside its columns";
          continue;
        }
        a.push_back(gpu[row * stride + i]);
        b.push_back(cpu[row * stride + i]);
      }
    EXPECT_LE(nmse(a, b), 5e-4);
  }

  static void compare_lse(const std::vector<float>& gpu, const std::vector<float>& cpu) {
    for (std::size_t i = 0; i < cpu.size(); ++i) {
      if (std::isinf(cpu[i]))
        ASSERT_EQ(gpu[i], cpu[i]) << i;
      else
        ASSERT_NEAR(gpu[i], cpu[i], 2e-3 * (1 + std::abs(cpu[i]))) << i;
    }
  }

  /// Frames of h x w cells after `prefix` text rows, `tail` text rows behind.
  static FrameTable frames(std::int32_t prefix, std::int32_t count, std::int32_t h, std::int32_t w, std::int32_t tail) {
    std::vector<FrameSpan> spans;
    for (std::int32_t i = 0; i < count; ++i) spans.push_back({prefix + i * h * w, 0, i, h, w});
    return make_frame_table(prefix + count * h * w + tail, spans);
  }
  static AttentionPlan plan_of(const FrameTable& table, Pattern pattern, std::int64_t window = 0) {
    return make_plan(table, {.pattern = pattern, .local_window = window, .atrous_rate = 2, .block_rows = kWholeBlocks});
  }
  static AttentionPlan dense(std::int32_t rows) { return plan_of(make_frame_table(rows, {}), Pattern::kDense); }
  static AttentionPlan windows(const std::vector<std::int32_t>& sizes) {
    std::vector<std::int32_t> starts{0};
    for (const std::int32_t size : sizes) starts.push_back(starts.back() + size);
    return make_segment_plan(starts, kWholeBlocks);
  }

  CudaDevice small_;
  std::mt19937 random_{20261125};
};

TEST_F(AttentionSm90Test, CausalRows) {
  for (const std::int32_t rows : {1, 2, 9, 18, 19, 63, 64, 127, 128, 129, 300, 777}) check({}, dense(rows));
}

/// A device of few multiprocessors and little cache: blocks take many turns, there and back, one head after the other.
TEST_F(AttentionSm90Test, ManyTurnsOfFewBlocks) {
  small_ = *context_.cuda;
  small_.l2_bytes = 1 << 16;
  context_.cuda = &small_;
  for (const int sms : {1, 2, 5}) {
    small_.sms = sms;
    check({.heads = 14, .kv_heads = 2}, dense(sms == 5 ? 3000 : 1500));
    check({.heads = 3, .kv_heads = 3, .head_dim = 64}, dense(1500));
  }
}

TEST_F(AttentionSm90Test, HeadLayouts) {
  for (const auto& [heads, kv_heads] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {16, 2}, {64, 8}, {32, 8}, {40, 8}, {14, 2}, {3, 3}, {6, 2}, {15, 5}, {32, 2}, {2, 1}})
    check({.heads = heads, .kv_heads = kv_heads}, dense(260));
}

TEST_F(AttentionSm90Test, HeadDims) {
  for (const std::int64_t head_dim : {8, 40, 64, 72, 80, 96, 104, 128}) {
    check({.heads = 6, .kv_heads = 2, .head_dim = head_dim}, dense(300));
    check({.heads = 3, .kv_heads = 3, .head_dim = head_dim}, windows({64, 64, 16, 4, 48, 1, 128, 200, 600, 77, 130}));
  }
}

TEST_F(AttentionSm90Test, LargeKeysMoveTheMaximum) {
  check({.key_scale = 12}, dense(900));
  check({.key_scale = 8}, plan_of(frames(5, 6, 9, 9, 20), Pattern::kSpatialTemporal));
}

TEST_F(AttentionSm90Test, Patterns) {
  for (const Pattern pattern : {Pattern::kSpatial, Pattern::kTemporal, Pattern::kSpatialTemporal}) {
    check({}, plan_of(frames(32, 4, 6, 8, 5), pattern));
    check({}, plan_of(frames(7, 5, 5, 7, 70), pattern));
    check({}, plan_of(frames(0, 3, 1, 1, 0), pattern));
    check({.padding = 64}, plan_of(frames(9, 3, 12, 16, 1), pattern));
  }
  for (const std::int64_t window : {1, 100, 517}) check({}, plan_of(frames(9, 8, 9, 9, 11), Pattern::kLocal, window));
}

TEST_F(AttentionSm90Test, SeveralClipsAndTextBetweenFrames) {
  std::vector<FrameSpan> spans;
  std::int32_t at = 5;
  for (std::int32_t i = 0; i < 4; ++i) {
    spans.push_back({at, 0, i, 3 + i % 2, 7 - i});
    at += spans.back().rows() + (i == 1 ? 4 : 0);
  }
  for (std::int32_t i = 0; i < 3; ++i, at += 36) spans.push_back({at, 1, i, 6, 6});
  const FrameTable table = make_frame_table(at + 13, spans);
  for (const Pattern pattern : {Pattern::kSpatial, Pattern::kTemporal, Pattern::kSpatialTemporal})
    check({}, plan_of(table, pattern));
  check({}, plan_of(table, Pattern::kLocal, 40));
}

TEST_F(AttentionSm90Test, ManySmallRangesShareSteps) {
  AttentionPlan plan;
  plan.blocks.push_back({0, 40, 1, 0, 45});
  for (std::int32_t i = 0; i < 45; ++i) plan.ranges.push_back({.first = 11 * i, .count = 1 + i % 9});
  check({.keys = 500}, plan);
}

TEST_F(AttentionSm90Test, FewRowsOverManyKeysAreSplit) {
  AttentionPlan plan;
  plan.ranges.push_back({.first = 0, .count = 9001});
  plan.blocks.push_back({0, 1, 1, 0, 1});
  check({.keys = 9001, .key_scale = 4}, plan);
  plan.blocks[0].count = 50;
  plan.prepared.reset();
  check({.keys = 9001}, plan);
}

TEST_F(AttentionSm90Test, RowsThatSeeNothingAreZero) {
  AttentionPlan plan = dense(100);
  plan.ranges[0].count = 100;
  plan.blocks.push_back({100, 30, 1, 1, 1});
  check({}, plan);
}

TEST_F(AttentionSm90Test, NanPasses) {
  const AttentionPlan plan = dense(200);
  const std::int64_t cols = 28 * 128;
  const std::vector<std::uint16_t> nan(static_cast<std::size_t>(200 * cols), 0x7FC0);
  const Buffer data = to_device(context_, nan);
  const Buffer out(context_, 200 * cols * 2);
  fill_zero(context_, out.data(), out.bytes());
  AttentionParams p{.shape = {28, 4, 128},
                    .scale = 0.1F,
                    .q = {data.data(), DType::kBF16, 200, cols, cols},
                    .cached = {},
                    .fresh = {.dtype = DType::kBF16, .heads = {}},
                    .plan = &plan,
                    .out = {out.data(), DType::kBF16, 200, cols, cols}};
  for (std::int64_t h = 0; h < 4; ++h)
    p.fresh.heads.push_back({data.as<std::uint16_t>() + h * 25600, data.as<std::uint16_t>() + h * 25600, 200, 128});
  cuda::attention_sm90(context_, p);
  for (const float x : widen(to_host<std::uint16_t>(context_, out.data(), 200 * cols))) ASSERT_TRUE(std::isnan(x));
}

TEST_F(AttentionSm90Test, SaysNoToWhatItCannotDo) {
  const Buffer data(context_, 1 << 20);
  AttentionPlan plan = dense(64);
  AttentionParams p{.shape = {4, 2, 64},
                    .scale = 0.125F,
                    .q = {data.data(), DType::kBF16, 64, 256, 256},
                    .cached = {},
                    .fresh = {.dtype = DType::kBF16, .heads = {}},
                    .plan = &plan,
                    .out = {data.as<std::uint16_t>() + 65536, DType::kBF16, 64, 256, 256}};
  const auto* rows = data.as<const std::uint16_t>() + 131072;
  p.fresh.heads = {{rows, rows, 64, 64}, {rows + 4096, rows + 4096, 64, 64}};
  EXPECT_TRUE(cuda::attention_sm90_takes(context_, p));
  p.fresh.heads[1].rows = 63;
  EXPECT_FALSE(cuda::attention_sm90_takes(context_, p)) << "ragged heads";
  p.fresh.heads[1].rows = 64;
  plan.ranges[0].step = 2;
  EXPECT_FALSE(cuda::attention_sm90_takes(context_, p)) << "strided keys";
  plan.ranges[0].step = 1;
  p.shape.head_dim = 60;
  EXPECT_FALSE(cuda::attention_sm90_takes(context_, p)) << "rows of no multiple of 16 bytes";
  p.shape.head_dim = 64;
  p.q.dtype = DType::kF32;
  EXPECT_FALSE(cuda::attention_sm90_takes(context_, p)) << "float32";
}

TEST(AttentionSm90Tiles, CoverEveryRowOnceAndSplitOnlyTheLong) {
  std::vector<FrameSpan> spans;
  for (std::int32_t i = 0; i < 64; ++i) spans.push_back({32 + i * 64, 0, i, 8, 8});
  const AttentionPlan plan = make_plan(make_frame_table(32 + 64 * 64 + 40, spans),
                                       {.pattern = Pattern::kSpatialTemporal, .block_rows = kWholeBlocks});
  const cuda::sm90::TileList list =
      cuda::sm90::make_tiles(plan, {.tile_rows = 18, .kv_heads = 4, .sms = 132, .long_keys = 12000});
  std::vector<int> covered(32 + 64 * 64 + 40);
  for (const cuda::sm90::AttentionTile& tile : list.tiles) {
    EXPECT_LT(tile.segment_begin, tile.segment_end);
    EXPECT_LE(tile.end - tile.first, 18);
    if (tile.slot < 0)
      for (std::int32_t row = tile.first; row < tile.end; ++row) ++covered[static_cast<std::size_t>(row)];
  }
  for (const cuda::sm90::SplitRows& split : list.splits) {
    EXPECT_GT(split.slots, 1);
    EXPECT_GE(split.first, 32 + 64 * 64) << "only question rows are long here";
    for (std::int32_t row = split.first; row < split.end; ++row) ++covered[static_cast<std::size_t>(row)];
  }
  for (std::size_t row = 0; row < covered.size(); ++row) EXPECT_EQ(covered[row], 1) << row;
}

}  // namespace
}  // namespace purekv
