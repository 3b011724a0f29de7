#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "flow/frame_table.h"

namespace purekv {

/// Clips of `frames` token-frames with grids of grid_h x grid_w cells, `gap` text rows before each clip, a
/// `prefix` before all and a `question` after.
struct ClipShape {
  std::int32_t frames = 0, grid_h = 0, grid_w = 0;
};

inline FrameTable make_table(std::int32_t prefix, const std::vector<ClipShape>& clips, std::int32_t gap,
                             std::int32_t question) {
  std::vector<FrameSpan> frames;
  std::int32_t row = prefix;
  for (std::size_t c = 0; c < clips.size(); ++c) {
    if (c > 0) row += gap;
    for (std::int32_t f = 0; f < clips[c].frames; ++f) {
      frames.push_back({row, static_cast<std::int32_t>(c), f, clips[c].grid_h, clips[c].grid_w});
      row += frames.back().rows();
    }
  }
  return make_frame_table(row + question, frames);
}

struct NamedTable {
  std::string name;
  FrameTable table;
};

/// Prompts around every edge of docs/method.md-T11.
inline std::vector<NamedTable> edge_tables() {
  return {{"text only", make_table(7, {}, 0, 0)},
          {"one row", make_table(1, {}, 0, 0)},
          {"no prefix", make_table(0, {{4, 3, 4}}, 0, 5)},
          {"no question", make_table(3, {{4, 3, 4}}, 0, 0)},
          {"one cell a frame", make_table(1, {{9, 1, 1}}, 0, 2)},
          {"one frame", make_table(2, {{1, 5, 7}}, 0, 3)},
          {"two frames", make_table(2, {{2, 5, 7}}, 0, 3)},
          {"three frames", make_table(2, {{3, 8, 8}}, 0, 3)},
          {"tile minus one", make_table(1, {{3, 7, 9}}, 0, 1)},
          {"tile plus one", make_table(35, {{3, 5, 13}}, 0, 1)},
          {"N 169", make_table(1, {{3, 13, 13}}, 0, 4)},
          {"two clips", make_table(4, {{3, 4, 5}, {4, 2, 3}}, 3, 6)},
          {"touching clips", make_table(4, {{3, 4, 5}, {2, 4, 5}}, 0, 6)},
          {"image then video", make_table(4, {{1, 6, 6}, {5, 3, 3}}, 2, 70)}};
}

}  // namespace purekv
