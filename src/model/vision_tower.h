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

/// How many of `total` slices of `patches` patches each are best encoded together: even parts that fill the device.
std::int64_t slices_at_once(const Context& context, std::int64_t patches, std::int64_t total);

/// About what the tower takes beside its weights for `total` slices of `patches` patches each.
std::int64_t tower_bytes(const Context& context, const VisionConfig& config, std::int64_t patches, std::int64_t total);

/// Qwen2.5-VL's vision tower. No layer looks across temporal slices, so a clip streams through it, some slices at a
/// time.
class VisionTower {
 public:
  VisionTower(const Context& context, const VisionConfig& config, const VisionWeights& weights);

  /// Takes what `slices` of a grid need and gives back what another grid needed; `encode` does so too.
  void prepare(std::int64_t grid_h, std::int64_t grid_w, std::int64_t slices);
  /// patches [slices * grid_h * grid_w, patch_values] float32 -> out [slices * grid_h * grid_w / merge^2, out_hidden]
  /// float32 or context.activation(), raster.
  void encode(std::int64_t grid_h, std::int64_t grid_w, std::int64_t slices, const ConstMatrixView& patches,
              const MatrixView& out);

 private:
  /// What depends on the grid alone, kept while the grid stays.
  struct Grid {
    std::int64_t h = 0, w = 0, slices = 0;
    std::int64_t rows = 0;  ///< patches of all slices
    Buffer cells;           ///< [cells of all slices] int32: raster index of the i-th cell in window order
    Buffer places;          ///< the other way: where raster cell i stands in window order
    RopeTable rope;         ///< rows in window order
    AttentionPlan windows, whole;
    Matrix x, attended;       ///< [rows, hidden]; x is the residual stream, in activation() as the reference has it
    Matrix qkv;               ///< [rows, 3 * hidden]
    Matrix normed, gate, up;  ///< a chunk of rows; kept, because fresh pages cost time in every block
  };
  void place(Grid& grid) const;
  void take_memory(Grid& grid) const;
  void embed(const ConstMatrixView& patches);
  void project(const VisionBlockWeights& block);
  void attend(const VisionBlockWeights& block, const AttentionPlan& plan);
  void feed_forward(const VisionBlockWeights& block);
  void merge(const MatrixView& out);

  Context context_;
  const VisionConfig& config_;
  const VisionWeights& weights_;
  Grid grid_;
};

}  // namespace purekv
