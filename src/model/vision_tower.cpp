#include "model/vision_tower.h"

#include <algorithm>
#include <cmath>

#include "device/transfer.h"
#include "kernels/activation.h"
#include "kernels/linear.h"
#include "kernels/mlp.h"
#include "kernels/permute_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_attention.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

/// Patches encoded together, in what a row-wise operation wants at least.
constexpr std::int64_t kBatches = 2;
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

std::int64_t slices_at_once(const Context& context, std::int64_t patches, std::int64_t total) {
  const std::int64_t most = std::max<std::int64_t>(1, kBatches * context.rows_at_once() / patches);
  const std::int64_t parts = (total + most - 1) / most;
  return (total + parts - 1) / parts;  // even parts: a last one of a single slice would waste the device
}

std::int64_t tower_bytes(const Context& context, const VisionConfig& config, std::int64_t patches, std::int64_t total) {
  constexpr std::int64_t kFloat = sizeof(float);
  const auto between = static_cast<std::int64_t>(size_of(context.activation()));
  const std::int64_t rows = patches * slices_at_once(context, patches, total);
  const std::int64_t inner =
      mlp_stores_up(context, std::min(kBatches * context.rows_at_once(), rows), config.hidden, padded_ffn(config.ffn))
          ? 2
          : 1;
  const std::int64_t frames = config.patch_values();  // a byte a value
  const std::int64_t a_row = frames + kFloat * (config.patch_values() + config.hidden / config.heads) +
                             between * (6 * config.hidden + inner * padded_ffn(config.ffn) + config.out_hidden);
  return rows * a_row;
}

VisionTower::VisionTower(const Context& context, const VisionConfig& config, const VisionWeights& weights)
    : context_(context), config_(config), weights_(weights) {}

void VisionTower::prepare(std::int64_t grid_h, std::int64_t grid_w, std::int64_t slices) {
  if (grid_.h == grid_h && grid_.w == grid_w && grid_.slices == slices) return;
  grid_ = Grid();
  grid_.h = grid_h;
  grid_.w = grid_w;
  grid_.slices = slices;
  grid_.rows = grid_h * grid_w * slices;
  place(grid_);
  take_memory(grid_);
}

/// Orders, rotations and plans of all slices, one after the other.
void VisionTower::place(Grid& grid) const {
  const WindowOrder order = make_window_order(config_, grid.h, grid.w);
  const auto cells = static_cast<std::int32_t>(order.cells.size());
  const auto patches = static_cast<std::int32_t>(grid.h * grid.w);
  std::vector<std::int32_t> raster;
  std::vector<std::int32_t> starts;
  std::vector<std::int32_t> slice_starts;
  for (std::int32_t slice = 0; slice < grid.slices; ++slice) {
    for (const std::int32_t cell : order.cells) raster.push_back(slice * cells + cell);
    for (std::size_t i = 0; i + 1 < order.starts.size(); ++i) starts.push_back(slice * patches + order.starts[i]);
    slice_starts.push_back(slice * patches);
  }
  starts.push_back(static_cast<std::int32_t>(grid.rows));
  slice_starts.push_back(static_cast<std::int32_t>(grid.rows));
  std::vector<std::int32_t> inverse(raster.size());
  for (std::size_t i = 0; i < raster.size(); ++i)
    inverse[static_cast<std::size_t>(raster[i])] = static_cast<std::int32_t>(i);
  grid.cells = to_device(context_, raster);
  grid.places = to_device(context_, inverse);
  grid.rope = make_vision_rope_table(context_, config_, grid.w, order.cells, grid.slices);
  const std::int32_t block_rows = plan_block_rows(context_);
  grid.windows = make_segment_plan(starts, block_rows);
  grid.whole = make_segment_plan(slice_starts, block_rows);
}

void VisionTower::take_memory(Grid& grid) const {
  const DType activation = context_.activation();
  const std::int64_t chunk = std::min(kBatches * context_.rows_at_once(), grid.rows);
  const std::int64_t ffn = weights_.blocks.empty() ? config_.ffn : weights_.blocks.front().gate.weight.rows;
  grid.x = Matrix(context_, activation, grid.rows, config_.hidden);
  grid.qkv = Matrix(context_, activation, grid.rows, 3 * config_.hidden);
  grid.attended = Matrix(context_, activation, grid.rows, config_.hidden);
  grid.normed = Matrix(context_, activation, chunk, config_.hidden);
  grid.gate = Matrix(context_, activation, chunk, ffn);
  grid.up = mlp_stores_up(context_, chunk, config_.hidden, ffn) ? Matrix(context_, activation, chunk, ffn) : Matrix();
}

void VisionTower::embed(const ConstMatrixView& patches) {
  const MatrixView& raster = grid_.attended.view();
  linear(context_, {.x = patches, .norm = {}, .w = {.weight = weights_.patch_embed}, .out = raster});
  permute_rows(context_, {.in = raster,
                          .rows = grid_.cells.as<std::int32_t>(),
                          .group = config_.merge * config_.merge,
                          .out = grid_.x.view()});
}

void VisionTower::project(const VisionBlockWeights& block) {
  const std::int64_t chunk = grid_.normed.view().rows;
  for (std::int64_t begin = 0; begin < grid_.rows; begin += chunk) {
    const std::int64_t count = std::min(chunk, grid_.rows - begin);
    linear(context_, {.x = grid_.x.slice(begin, count),
                      .norm = {.weight = block.norm1.as<float>(), .eps = kNormEps, .work = grid_.normed.view()},
                      .w = block.qkv.operand(),
                      .out = grid_.qkv.slice(begin, count)});
  }
}

void VisionTower::attend(const VisionBlockWeights& block, const AttentionPlan& plan) {
  project(block);
  const std::int64_t head_dim = config_.hidden / config_.heads;
  rope_attention(context_, {.heads = config_.heads,
                            .head_dim = head_dim,
                            .scale = 1.0F / std::sqrt(static_cast<float>(head_dim)),
                            .qkv = grid_.qkv.view(),
                            .cos = grid_.rope.cos_row(0),
                            .sin = grid_.rope.sin_row(0),
                            .plan = &plan,
                            .out = grid_.attended.view()});
  linear(
      context_,
      {.x = grid_.attended.view(), .norm = {}, .w = block.proj.operand(), .out = grid_.x.view(), .accumulate = true});
}

void VisionTower::feed_forward(const VisionBlockWeights& block) {
  const std::int64_t chunk = grid_.gate.view().rows;
  for (std::int64_t begin = 0; begin < grid_.rows; begin += chunk) {
    const std::int64_t count = std::min(chunk, grid_.rows - begin);
    const MatrixView x = grid_.x.slice(begin, count);
    mlp(context_, {.x = x,
                   .norm = {.weight = block.norm2.as<float>(), .eps = kNormEps, .work = grid_.normed.view()},
                   .gate = block.gate.operand(),
                   .up = block.up.operand(),
                   .down = block.down.operand(),
                   .gate_work = grid_.gate.view(),
                   .up_work = grid_.up.view(),
                   .out = x});
  }
}

void VisionTower::merge(const MatrixView& out) {
  const std::int64_t group = config_.merge * config_.merge;
  const std::int64_t cells = grid_.rows / group;
  const std::int64_t wide = group * config_.hidden;
  const MatrixView& normed = grid_.attended.view();
  rms_norm(context_, {.x = grid_.x.view(), .weight = weights_.merger_norm.as<float>(), .eps = kNormEps, .out = normed});
  const ConstMatrixView grouped(normed.data, normed.dtype, cells, wide, wide);
  const std::int64_t chunk = std::min(context_.rows_at_once(), cells);
  const MatrixView inner{grid_.qkv.view().data, normed.dtype, chunk, wide, wide};
  const Matrix merged(context_, out.dtype, cells, config_.out_hidden);
  for (std::int64_t begin = 0; begin < cells; begin += chunk) {
    const std::int64_t count = std::min(chunk, cells - begin);
    linear(context_, {.x = grouped.slice(begin, count),
                      .norm = {},
                      .w = weights_.merger_in.operand(),
                      .out = inner.slice(0, count)});
    gelu(context_, inner.slice(0, count));
    linear(context_, {.x = inner.slice(0, count),
                      .norm = {},
                      .w = weights_.merger_out.operand(),
                      .out = merged.slice(begin, count)});
  }
  permute_rows(context_, {.in = merged.view(), .rows = grid_.places.as<std::int32_t>(), .out = out});
}

void VisionTower::encode(std::int64_t grid_h, std::int64_t grid_w, std::int64_t slices, const ConstMatrixView& patches,
                         const MatrixView& out) {
  prepare(grid_h, grid_w, slices);
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
