#include "kernels/cuda/frame_rows.h"

#include <algorithm>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "device/transfer.h"

namespace purekv::cuda {
namespace {

/// As in kernels/value_norm.cpp: novelty links equal cells of equal grids only.
std::vector<std::int32_t> earlier_rows(const FrameTable& table) {
  std::vector<std::int32_t> earlier(static_cast<std::size_t>(table.rows), kTextRow);
  for (std::size_t f = 0; f < table.frames.size(); ++f) {
    const FrameSpan& now = table.frames[f];
    const bool linked = f > 0 && table.frames[f - 1].clip == now.clip && table.frames[f - 1].grid_h == now.grid_h &&
                        table.frames[f - 1].grid_w == now.grid_w;
    for (std::int32_t cell = 0; cell < now.rows(); ++cell)
      earlier[static_cast<std::size_t>(now.start + cell)] = linked ? table.frames[f - 1].start + cell : kNoEarlierRow;
  }
  return earlier;
}

std::vector<FrameTile> frame_tiles(const FrameTable& table, std::int64_t group) {
  std::vector<FrameTile> tiles;
  for (const FrameSpan& frame : table.frames) {
    if (frame.rows() == 0) continue;
    const auto packed = static_cast<std::int32_t>(frame.rows() * group);
    // The last rows see the most keys: their blocks begin first.
    for (std::int32_t first = (packed - 1) / kFrameTileRows * kFrameTileRows; first >= 0; first -= kFrameTileRows)
      tiles.push_back({frame.start, frame.rows(), first});
  }
  return tiles;
}

/// As few tiles of a frame as can be, and even ones: a small last one would take as long as the others.
std::vector<CellTile> cell_tiles(const FrameTable& table, std::int64_t group) {
  const auto most = static_cast<std::int32_t>(std::max<std::int64_t>(1, kCellTileRows / group));
  std::vector<CellTile> tiles;
  for (const FrameSpan& frame : table.frames) {
    if (frame.rows() == 0) continue;
    const std::int32_t count = (frame.rows() + most - 1) / most;
    const std::int32_t cells = (frame.rows() + count - 1) / count;
    for (std::int32_t first = (frame.rows() - 1) / cells * cells; first >= 0; first -= cells)
      tiles.push_back({frame.start, first, std::min(first + cells, frame.rows())});
  }
  return tiles;
}

/// Whole frames; parts of even work where frames leave multiprocessors without any. A part fetches its keys itself:
/// 32 frames of 256 cells and 4 heads took 44 us in 128 items, 47 in 256 (H200).
std::vector<CellTile> small_items(const FrameTable& table, const HeadShape& shape, int sms) {
  constexpr std::int32_t kLeastTiles = 8;
  constexpr std::int32_t kTileWork = 64;  // what a tile takes anyway, in columns
  std::vector<CellTile> items;
  if (shape.group() > kSmallTileRows) return items;
  const auto cells = static_cast<std::int32_t>(kSmallTileRows / shape.group());
  const auto whole = static_cast<std::int64_t>(table.frames.size()) * shape.kv_heads;
  for (const FrameSpan& frame : table.frames) {
    if (frame.rows() > kSmallMostCells) return {};
    const std::int32_t tiles = (frame.rows() + cells - 1) / cells;
    const auto parts = static_cast<std::int32_t>(std::clamp<std::int64_t>(sms / whole, 1, 1 + tiles / kLeastTiles));
    const std::int32_t work = tiles * kTileWork + cells * tiles * (tiles + 1) / 2;
    std::int32_t end = frame.rows();
    std::int32_t done = 0;
    for (std::int32_t tile = tiles - 1, part = 1; tile >= 0; --tile) {
      done += kTileWork + (tile + 1) * cells;
      if (done < work / parts * part && tile > 0) continue;
      items.push_back({frame.start, tile * cells, end});
      end = tile * cells;
      ++part;
    }
  }
  return items;
}

}  // namespace

std::shared_ptr<const FrameRows> frame_rows(const Context& context, const FrameTable& table, const HeadShape& shape) {
  const std::int64_t group = shape.group();
  if (auto kept = std::dynamic_pointer_cast<const FrameRows>(table.prepared);
      kept && kept->group == group && kept->kv_heads == shape.kv_heads)
    return kept;
  auto made = std::make_shared<FrameRows>();
  made->group = group;
  made->kv_heads = shape.kv_heads;
  made->earlier = to_device(context, earlier_rows(table));
  const std::vector<FrameTile> tiles = frame_tiles(table, group);
  made->tiles = to_device(context, tiles);
  made->tile_count = static_cast<std::int64_t>(tiles.size());
  const std::vector<CellTile> cells = cell_tiles(table, group);
  made->cell_tiles = to_device(context, cells);
  made->cell_tile_count = static_cast<std::int64_t>(cells.size());
  const std::vector<CellTile> items = small_items(table, shape, context.cuda->sms);
  made->small_items = to_device(context, items);
  made->small_item_count = static_cast<std::int64_t>(items.size());
  made->next_item = to_device(context, std::vector<std::uint32_t>{0});
  table.prepared = made;
  return made;
}

}  // namespace purekv::cuda
