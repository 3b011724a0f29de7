#include "engine/bench_subjects.h"

#include <algorithm>
#include <cmath>

#include "cache/kv_cache.h"
#include "kernels/attention.h"
#include "kernels/random_bits.h"
#include "model/vision_tower.h"
#include "model/weights.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

class AttentionSubject : public Subject {
 public:
  AttentionSubject(const Context& context, const BenchRequest& r, const FrameTable& table)
      : context_(context),
        shape_{r.shape.heads, r.shape.kv_heads, r.shape.head_dim},
        plan_(make_plan(table, {.pattern = r.ask.attention.pattern,
                                .local_window = r.ask.attention.local_window,
                                .atrous_rate = r.ask.attention.atrous_rate,
                                .block_rows = plan_block_rows(context)})),
        scratch_(context, shape_, table.rows, nullptr),
        q_(context, context.activation(), table.rows, shape_.heads * shape_.head_dim),
        out_(context, context.activation(), table.rows, shape_.heads * shape_.head_dim),
        batch_(r.batch) {
    const std::int64_t kv_rows = table.rows * shape_.kv_heads;
    random_normal(context, q_.view(), 1);
    random_normal(context, {scratch_.keys(), context.compute, kv_rows, shape_.head_dim, shape_.head_dim}, 2);
    random_normal(context, {scratch_.values(), context.compute, kv_rows, shape_.head_dim, shape_.head_dim}, 3);
    const std::int64_t kv_bytes = 2 * kv_rows * shape_.head_dim * static_cast<std::int64_t>(size_of(context.compute));
    const auto batch = static_cast<double>(batch_);
    flops = batch * 4.0 * static_cast<double>(plan_.pairs) * static_cast<double>(shape_.heads * shape_.head_dim);
    bytes = batch * static_cast<double>(2 * q_.view().rows * q_.view().cols *
                                            static_cast<std::int64_t>(size_of(context.activation())) +
                                        kv_bytes);
    kv.rows = table.rows;
    kv.bytes_full = kv.bytes_kept = kv.bytes_peak = kv_bytes;
    kv.rows_kept.emplace_back(static_cast<std::size_t>(shape_.kv_heads), table.rows);
  }
  void run() override {
    for (std::int64_t b = 0; b < batch_; ++b)
      attention(context_, {.shape = shape_,
                           .scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim)),
                           .q = q_.view(),
                           .cached = {},
                           .fresh = scratch_.view(),
                           .plan = &plan_,
                           .out = out_.view()});
  }

 private:
  Context context_;
  HeadShape shape_;
  AttentionPlan plan_;
  LayerScratch scratch_;
  Matrix q_, out_;
  std::int64_t batch_;
};

class VisionSubject : public Subject {
 public:
  VisionSubject(const Context& context, const BenchRequest& r, const ModelConfig& config, DType weights)
      : config_(config.vision),
        weights_(random_vision(context, config_, weights)),
        tower_(context, config_, weights_),
        frames_(std::max<std::int64_t>(1, r.frames) * r.batch) {
    const std::int64_t cells = r.tokens_per_frame > 0 ? r.tokens_per_frame : r.tokens;
    const auto [h, w] = near_square(cells);
    grid_h_ = h * config_.merge;
    grid_w_ = w * config_.merge;
    const std::int64_t patches = grid_h_ * grid_w_;
    at_once_ = slices_at_once(context, patches, frames_);
    patches_ = Matrix(context, DType::kF32, at_once_ * patches, config_.patch_values());
    out_ = Matrix(context, context.activation(), at_once_ * cells, config_.out_hidden);
    random_normal(context, patches_.view(), 4);
    const auto order = make_window_order(config_, grid_h_, grid_w_);
    double pairs = 0;
    for (std::size_t i = 1; i < order.starts.size(); ++i)
      pairs += std::pow(static_cast<double>(order.starts[i] - order.starts[i - 1]), 2);
    const auto full = static_cast<double>(config_.full_layers.size());
    const double all_pairs = pairs * (static_cast<double>(config_.depth) - full) +
                             full * static_cast<double>(patches) * static_cast<double>(patches);
    const std::int64_t wide = config_.merge * config_.merge * config_.hidden;
    const std::int64_t per_patch = config_.patch_values() * config_.hidden + config_.depth * block_weights(config_);
    flops = static_cast<double>(frames_) *
            (2.0 * static_cast<double>(patches * per_patch + cells * wide * (wide + config_.out_hidden)) +
             4.0 * all_pairs * static_cast<double>(config_.hidden));
    const std::int64_t parts = (frames_ + at_once_ - 1) / at_once_;
    bytes = static_cast<double>(parts) * static_cast<double>(weights_.bytes);
  }
  void run() override {
    const std::int64_t patches = grid_h_ * grid_w_;
    const std::int64_t cells = patches / (config_.merge * config_.merge);
    for (std::int64_t f = 0; f < frames_; f += at_once_) {
      const std::int64_t count = std::min(at_once_, frames_ - f);
      tower_.encode(grid_h_, grid_w_, count, patches_.slice(0, count * patches), out_.slice(0, count * cells));
    }
  }

 private:
  VisionConfig config_;
  VisionWeights weights_;
  VisionTower tower_;
  std::int64_t frames_, at_once_ = 1, grid_h_ = 0, grid_w_ = 0;
  Matrix patches_, out_;
};

}  // namespace

/// A cell count as the most square grid whose sides multiply to it.
std::pair<std::int32_t, std::int32_t> near_square(std::int64_t cells) {
  auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(cells)));
  while (cells % side != 0) --side;
  return {static_cast<std::int32_t>(side), static_cast<std::int32_t>(cells / side)};
}

std::unique_ptr<Subject> make_attention_subject(const Context& context, const BenchRequest& request,
                                                const Shaped& shaped) {
  return std::make_unique<AttentionSubject>(context, request, shaped.table);
}

std::unique_ptr<Subject> make_vision_subject(const Context& context, const BenchRequest& request,
                                             const Shaped& shaped) {
  return std::make_unique<VisionSubject>(context, request, shaped.config, weight_type(request));
}

}  // namespace purekv
