#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
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

/// cos and sin tables of rotate-half RoPE in a context's memory, [rows, half] float32 each.
struct RopeTable {
  Buffer cos, sin;
  std::int64_t rows = 0, half = 0;  ///< half: head_dim / 2
  [[nodiscard]] const float* cos_row(std::int64_t row) const { return cos.as<float>() + row * half; }
  [[nodiscard]] const float* sin_row(std::int64_t row) const { return sin.as<float>() + row * half; }
};

/// 1 / theta^(2j / head_dim) of the language model, [head_dim / 2], rounded to float32 as the reference holds it.
std::vector<float> text_frequencies(const TextConfig& config);

/// Frequency j takes its angle from the axis of its M-RoPE section.
RopeTable make_rope_table(const Context& context, const TextConfig& config, const Positions& positions);
/// The tower's 2-D table of `slices` equal grids, one after the other: the first half of the frequencies turn by the
/// patch row, the second by the patch column. `cells` is the order of merged cells in a slice (raster indices); a
/// cell's patches follow each other.
RopeTable make_vision_rope_table(const Context& context, const VisionConfig& config, std::int64_t grid_w,
                                 std::span<const std::int32_t> cells, std::int64_t slices);

}  // namespace purekv
