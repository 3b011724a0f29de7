#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace purekv {

/// One token-frame of a clip: rows [start, start + rows()) of the prompt, raster order.
struct FrameSpan {
  std::int32_t start = 0;
  std::int32_t clip = 0;                ///< counts media, images included
  std::int32_t index = 0;               ///< within its clip
  std::int32_t grid_h = 0, grid_w = 0;  ///< merged cells
  [[nodiscard]] std::int32_t rows() const { return grid_h * grid_w; }
};

/// Where a prompt row comes from. Text: all -1.
struct RowPlace {
  std::int32_t clip = -1;
  std::int32_t frame = -1;  ///< index into FrameTable::frames
  std::int32_t cell = -1;   ///< raster index within the frame
};

/// Which prompt rows are text and which belong to which frame (docs/method.md): rows are found
/// by this table, never by j - N, because frames differ in size and a method can leave rows out.
struct FrameTable {
  /// What kernels make of a table once and keep with it (its device copy).
  struct Prepared {
    virtual ~Prepared() = default;
  };
  std::int32_t rows = 0;                       ///< prompt rows, l
  std::int32_t prefix = 0;                     ///< p: the first visual row; l without media
  std::int32_t question_start = 0;             ///< q: the row after the last visual one; l without media
  std::vector<FrameSpan> frames;               ///< ascending start
  std::vector<RowPlace> places;                ///< [rows]
  mutable std::shared_ptr<Prepared> prepared;  ///< by the first kernel that uses it; tables do not change after that

  /// The row of the same (row, column) cell one frame earlier in the same clip, -1 where there is
  /// none (text, a clip's first frame, or a grid that lacks the cell).
  [[nodiscard]] std::int32_t previous_cell(std::int32_t row) const;
  [[nodiscard]] bool is_text(std::int32_t row) const { return places[static_cast<std::size_t>(row)].clip < 0; }
  [[nodiscard]] std::int32_t visual_rows() const;
};

/// Builds the table from frames in ascending order; every other row is text.
FrameTable make_frame_table(std::int32_t rows, std::vector<FrameSpan> frames);

}  // namespace purekv
