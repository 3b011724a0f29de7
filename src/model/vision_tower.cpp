#include "model/vision_tower.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

/// Patches a chunk of the row-wise work: bounds the MLP's scratch whatever the frame's size.
constexpr std::int64_t kChunk = 1024;
constexpr float kNormEps = 1e-6F;

}  // namespace

WindowOrder make_window_order(const VisionConfig& config, std::int64_t grid_h, std::int64_t grid_w) {
  const std::int64_t rows = grid_h / config.merge;
  const std::int64_t cols = grid_w / config.merge;
  const std::int64_t side = std::max<std::int64_t>(1, config.window / config.merge / config.patch);
  const std::int64_t patches = config.merge * config.merge;
  WindowOrder order;
  order.starts.push_back(0);
  for (std::int64_t y0 = 0; y0 < rows; y0 += side)
    for (std::int64_t x0 = 0; x0 < cols; x0 += side) {
      for (std::int64_t y = y0; y < std::min(rows, y0 + side); ++y)
        for (std::int64_t x = x0; x < std::min(cols, x0 + side); ++x)
          order.cells.push_back(static_cast<std::int32_t>(y * cols + x));
      order.starts.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(order.cells.size()) * patches));
    }
  return order;
}

VisionTower::VisionTower(const Context& context, const VisionConfig& config, const VisionWeights& weights)
    : context_(context), config_(config), weights_(weights) {}

void VisionTower::prepare(std::int64_t grid_h, std::int64_t grid_w) {
  if (grid_.h == grid_h && grid_.w == grid_w) return;
  Grid grid;
  grid.h = grid_h;
  grid.w = grid_w;
  grid.order = make_window_order(config_, grid_h, grid_w);
  const std::int64_t patches = grid_h * grid_w;
  const std::int64_t group = config_.merge * config_.merge;
  const std::int64_t half = config_.hidden / config_.heads / 2;
  const RopeTable raster = make_vision_rope_table(config_, grid_h, grid_w);
  for (const std::int32_t cell : grid.order.cells) {
    const auto begin = static_cast<std::ptrdiff_t>(cell * group * half);
    const auto end = begin + static_cast<std::ptrdiff_t>(group * half);
    grid.rope.cos.insert(grid.rope.cos.end(), raster.cos.begin() + begin, raster.cos.begin() + end);
    grid.rope.sin.insert(grid.rope.sin.end(), raster.sin.begin() + begin, raster.sin.begin() + end);
  }
  grid.windows = make_segment_plan(grid.order.starts);
  grid.whole = make_segment_plan({0, static_cast<std::int32_t>(patches)});
  grid.x = Matrix(context_, DType::kF32, patches, config_.hidden);
  grid.q = Matrix(context_, DType::kF32, patches, config_.hidden);
  grid.attended = Matrix(context_, DType::kF32, patches, config_.hidden);
  const std::int64_t chunk = std::min(kChunk, patches);
  grid.normed = Matrix(context_, DType::kF32, chunk, config_.hidden);
  grid.qkv = Matrix(context_, DType::kF32, chunk, 3 * config_.hidden);
  grid.gate = Matrix(context_, DType::kF32, chunk, config_.ffn);
  grid.up = Matrix(context_, DType::kF32, chunk, config_.ffn);
  grid.kv = Buffer(context_, 2 * patches * config_.hidden * static_cast<std::int64_t>(size_of(context_.compute)));
  grid_ = std::move(grid);
}

void VisionTower::embed(const ConstMatrixView& patches) {
  const std::int64_t group = config_.merge * config_.merge;
  const MatrixView& raster = grid_.q.view();
  linear(context_, {.x = patches, .weight = weights_.patch_embed, .out = raster});
  const auto bytes = static_cast<std::size_t>(group * config_.hidden) * sizeof(float);
  for (std::size_t i = 0; i < grid_.order.cells.size(); ++i)
    std::memcpy(grid_.x.view().row<float>(static_cast<std::int64_t>(i) * group),
                raster.row<float>(grid_.order.cells[i] * group), bytes);
}

void VisionTower::attend(const VisionBlockWeights& block, const AttentionPlan& plan) {
  const std::int64_t patches = grid_.h * grid_.w;
  const std::int64_t head_dim = config_.hidden / config_.heads;
  const auto element = static_cast<std::int64_t>(size_of(context_.compute));
  auto* keys = grid_.kv.as<std::byte>();
  auto* values = keys + patches * config_.hidden * element;
  for (std::int64_t begin = 0; begin < patches; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, patches - begin);
    const MatrixView three = grid_.qkv.slice(0, count);
    rms_norm(context_, {.x = grid_.x.slice(begin, count),
                        .weight = block.norm1.data(),
                        .eps = kNormEps,
                        .out = grid_.normed.slice(0, count)});
    linear(context_, {.x = grid_.normed.slice(0, count),
                      .weight = block.qkv.weight,
                      .bias = block.qkv.bias_or_null(),
                      .out = three});
    RopeParams rope{.x = three.columns(0, config_.hidden),
                    .cos = grid_.rope.cos.data() + begin * (head_dim / 2),
                    .sin = grid_.rope.sin.data() + begin * (head_dim / 2),
                    .heads = config_.heads,
                    .head_dim = head_dim,
                    .out = grid_.q.view().row<float>(begin),
                    .out_dtype = DType::kF32,
                    .head_stride = head_dim,
                    .row_stride = config_.hidden};
    rope_store(context_, rope);
    rope.x = three.columns(config_.hidden, config_.hidden);
    rope.out = keys + begin * head_dim * element;
    rope.out_dtype = context_.compute;
    rope.head_stride = patches * head_dim;
    rope.row_stride = head_dim;
    rope_store(context_, rope);
    rope.x = three.columns(2 * config_.hidden, config_.hidden);
    rope.out = values + begin * head_dim * element;
    rope.cos = rope.sin = nullptr;
    rope_store(context_, rope);
  }
  KvView fresh{.dtype = context_.compute, .heads = {}};
  for (std::int64_t h = 0; h < config_.heads; ++h)
    fresh.heads.push_back(
        {keys + h * patches * head_dim * element, values + h * patches * head_dim * element, patches, head_dim});
  attention(context_, {.shape = {config_.heads, config_.heads, head_dim},
                       .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                       .q = grid_.q.view(),
                       .cached = {},
                       .fresh = fresh,
                       .plan = &plan,
                       .out = grid_.attended.view()});
  linear(context_, {.x = grid_.attended.view(),
                    .weight = block.proj.weight,
                    .bias = block.proj.bias_or_null(),
                    .out = grid_.x.view(),
                    .accumulate = true});
}

void VisionTower::feed_forward(const VisionBlockWeights& block) {
  const std::int64_t patches = grid_.h * grid_.w;
  for (std::int64_t begin = 0; begin < patches; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, patches - begin);
    const MatrixView x = grid_.x.slice(begin, count);
    rms_norm(context_, {.x = x, .weight = block.norm2.data(), .eps = kNormEps, .out = grid_.normed.slice(0, count)});
    linear(context_, {.x = grid_.normed.slice(0, count),
                      .weight = block.gate.weight,
                      .bias = block.gate.bias_or_null(),
                      .out = grid_.gate.slice(0, count)});
    linear(context_, {.x = grid_.normed.slice(0, count),
                      .weight = block.up.weight,
                      .bias = block.up.bias_or_null(),
                      .out = grid_.up.slice(0, count)});
    swiglu(context_, grid_.gate.slice(0, count), grid_.up.slice(0, count));
    linear(context_, {.x = grid_.gate.slice(0, count),
                      .weight = block.down.weight,
                      .bias = block.down.bias_or_null(),
                      .out = x,
                      .accumulate = true});
  }
}

void VisionTower::merge(const MatrixView& out) {
  const std::int64_t group = config_.merge * config_.merge;
  const auto cells = static_cast<std::int64_t>(grid_.order.cells.size());
  const std::int64_t wide = group * config_.hidden;
  const MatrixView& normed = grid_.q.view();
  rms_norm(context_, {.x = grid_.x.view(), .weight = weights_.merger_norm.data(), .eps = kNormEps, .out = normed});
  const ConstMatrixView grouped(normed.data, DType::kF32, cells, wide, wide);
  const std::int64_t chunk = std::min(kChunk, cells);
  Matrix inner(context_, DType::kF32, chunk, wide);
  Matrix merged(context_, DType::kF32, chunk, config_.out_hidden);
  for (std::int64_t begin = 0; begin < cells; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, cells - begin);
    linear(context_, {.x = grouped.slice(begin, count),
                      .weight = weights_.merger_in.weight,
                      .bias = weights_.merger_in.bias_or_null(),
                      .out = inner.slice(0, count)});
    gelu(context_, inner.slice(0, count));
    linear(context_, {.x = inner.slice(0, count),
                      .weight = weights_.merger_out.weight,
                      .bias = weights_.merger_out.bias_or_null(),
                      .out = merged.slice(0, count)});
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(out.row<float>(grid_.order.cells[static_cast<std::size_t>(begin + i)]), merged.view().row<float>(i),
                  static_cast<std::size_t>(config_.out_hidden) * sizeof(float));
  }
}

void VisionTower::encode(std::int64_t grid_h, std::int64_t grid_w, const ConstMatrixView& patches,
                         const MatrixView& out) {
  prepare(grid_h, grid_w);
  embed(patches);
  for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
    const bool full = std::find(config_.full_layers.begin(), config_.full_layers.end(), static_cast<std::int64_t>(i)) !=
                      config_.full_layers.end();
    attend(weights_.blocks[i], full ? grid_.whole : grid_.windows);
    feed_forward(weights_.blocks[i]);
  }
  merge(out);
}

}  // namespace purekv
