#pragma once

#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "flow/attention_plan.h"
#include "model/config.h"
#include "model/positions.h"
#include "model/weights.h"

namespace purekv {

/// Order in which a slice's merged cells pass the tower: windows row-major, cells row-major inside
/// (docs/model.md), and where each window begins in patches.
struct WindowOrder {
  std::vector<std::int32_t> cells;   ///< [grid_h * grid_w / merge^2] raster index of the i-th cell
  std::vector<std::int32_t> starts;  ///< cumulative patches, first 0
};
WindowOrder make_window_order(const VisionConfig& config, std::int64_t grid_h, std::int64_t grid_w);

/// Qwen2.5-VL's vision tower over one temporal slice at a time: no layer looks across slices, so a
/// clip streams through it.
class VisionTower {
 public:
  VisionTower(const Context& context, const VisionConfig& config, const VisionWeights& weights);

  /// patches [grid_h * grid_w, patch_values] -> out [grid_h * grid_w / merge^2, out_hidden], raster.
  void encode(std::int64_t grid_h, std::int64_t grid_w, const ConstMatrixView& patches, const MatrixView& out);

 private:
  /// What depends on the grid alone, kept while the grid stays.
  struct Grid {
    std::int64_t h = 0, w = 0;
    WindowOrder order;
    RopeTable rope;  ///< rows in window order
    AttentionPlan windows, whole;
    Matrix x, q, attended;         ///< [patches, hidden]
    Matrix normed, qkv, gate, up;  ///< a chunk of patches; kept, because fresh pages cost time in every block
    Buffer kv;                     ///< keys then values, [heads][patches][head_dim] each
  };
  void prepare(std::int64_t grid_h, std::int64_t grid_w);
  void embed(const ConstMatrixView& patches);
  void attend(const VisionBlockWeights& block, const AttentionPlan& plan);
  void feed_forward(const VisionBlockWeights& block);
  void merge(const MatrixView& out);

  Context context_;
  const VisionConfig& config_;
  const VisionWeights& weights_;
  Grid grid_;
};

}  // namespace purekv
