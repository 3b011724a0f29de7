#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"

namespace purekv {

/// A run of the prompt for positions: text (grid zero) or one medium's merged grid.
struct PositionRun {
  std::int64_t text = 0;                            ///< rows of a text run
  std::int64_t grid_t = 0, grid_h = 0, grid_w = 0;  ///< merged cells of a vision run
  double second_per_grid = 0;                       ///< 0 for an image: every cell has the run's first t
};

/// M-RoPE positions of a prompt: [3][l] (t, h, w), and where the next token stands.
struct Positions {
  std::array<std::vector<std::int32_t>, 3> axis;
  std::int32_t next = 0;  ///< max over axes and rows + 1
  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(axis[0].size()); }
};

/// Qwen's training rule (docs/model.md): float seconds truncated after the product, text
/// after a video starts at the maximum over all axes + 1.
Positions make_positions(std::span<const PositionRun> runs, double tokens_per_second);

/// cos and sin tables of rotate-half RoPE, [rows, head_dim / 2] each, float32.
struct RopeTable {
  std::vector<float> cos, sin;
};

/// Frequency j takes its angle from the axis of its M-RoPE section.
RopeTable make_rope_table(const TextConfig& config, const Positions& positions);
/// The same for one row whose three axes are equal (a decoded token).
RopeTable make_rope_table(const TextConfig& config, std::int32_t position);
/// The tower's 2-D table in merge-block row order: the first half of the frequencies turn by the
/// patch row, the second by the patch column.
RopeTable make_vision_rope_table(const VisionConfig& config, std::int64_t grid_h, std::int64_t grid_w);

}  // namespace purekv
