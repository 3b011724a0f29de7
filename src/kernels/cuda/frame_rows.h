#pragma once

#include <cstdint>
#include <memory>

#include "base/shape.h"
#include "device/buffer.h"
#include "device/context.h"
#include "flow/frame_table.h"

namespace purekv::cuda {

/// A stretch of one frame's packed rows (cells x heads of a KV group, cell-major) that one block scores.
struct FrameTile {
  std::int32_t start = 0;  ///< prompt row of the frame's first cell
  std::int32_t cells = 0;
  std::int32_t first = 0;  ///< packed row
};

inline constexpr std::int32_t kFrameTileRows = 256;

/// A stretch of one frame's cells, with all heads of a KV group at most 128 rows.
struct CellTile {
  std::int32_t start = 0;           ///< prompt row of the frame's first cell
  std::int32_t first = 0, end = 0;  ///< cells of the frame
};

inline constexpr std::int32_t kCellTileRows = 128;

/// Of the kernel for small frames: their cells at most, and packed rows that it scores at a time.
inline constexpr std::int32_t kSmallMostCells = 256, kSmallTileRows = 64;

/// Values of FrameRows::earlier that are no row.
inline constexpr std::int32_t kNoEarlierRow = -1, kTextRow = -2;

/// A frame table on the device, kept with it.
struct FrameRows final : FrameTable::Prepared {
  std::int64_t group = 0, kv_heads = 0;
  Buffer earlier;  ///< [rows] int32: the row of the same cell one frame earlier in a grid of the same size
  Buffer tiles;    ///< FrameTile, longest first within a frame
  std::int64_t tile_count = 0;
  Buffer cell_tiles;  ///< CellTile, longest first within a frame
  std::int64_t cell_tile_count = 0;
  Buffer small_items;  ///< CellTile, what a block of score_frame_small_sm90.cu takes; none where a frame or the group
                       ///< is too large
  std::int64_t small_item_count = 0;
  Buffer next_item;  ///< uint32: 0 between two launches of a kernel that hands out its items with it
};

/// The device copy of `table` for heads of that shape, made at the first call.
std::shared_ptr<const FrameRows> frame_rows(const Context& context, const FrameTable& table, const HeadShape& shape);

}  // namespace purekv::cuda
