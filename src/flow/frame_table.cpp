#include "flow/frame_table.h"

#include <utility>

#include "base/fail.h"

namespace purekv {

std::int32_t FrameTable::previous_cell(std::int32_t row) const {
  const RowPlace& at = places[static_cast<std::size_t>(row)];
  if (at.clip < 0 || at.frame == 0) return -1;
  const FrameSpan& now = frames[static_cast<std::size_t>(at.frame)];
  const FrameSpan& before = frames[static_cast<std::size_t>(at.frame) - 1];
  if (before.clip != now.clip) return -1;
  const std::int32_t y = at.cell / now.grid_w;
  const std::int32_t x = at.cell % now.grid_w;
  if (y >= before.grid_h || x >= before.grid_w) return -1;
  return before.start + y * before.grid_w + x;
}

std::int32_t FrameTable::visual_rows() const {
  std::int32_t sum = 0;
  for (const FrameSpan& frame : frames) sum += frame.rows();
  return sum;
}

FrameTable make_frame_table(std::int32_t rows, std::vector<FrameSpan> frames) {
  FrameTable table;
  table.rows = rows;
  table.frames = std::move(frames);
  table.places.resize(static_cast<std::size_t>(rows));
  std::int32_t end = 0;
  for (std::size_t f = 0; f < table.frames.size(); ++f) {
    const FrameSpan& span = table.frames[f];
    PUREKV_ASSERT(span.start >= end && span.start + span.rows() <= rows && span.rows() > 0);
    end = span.start + span.rows();
    RowPlace* const first = table.places.data() + span.start;
    for (std::int32_t cell = 0; cell < span.rows(); ++cell)
      first[cell] = {span.clip, static_cast<std::int32_t>(f), cell};
  }
  table.prefix = table.frames.empty() ? rows : table.frames.front().start;
  table.question_start = table.frames.empty() ? rows : end;
  return table;
}

}  // namespace purekv
