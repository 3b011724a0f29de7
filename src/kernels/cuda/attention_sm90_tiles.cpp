#include "kernels/cuda/attention_sm90_tiles.h"

#include <algorithm>
#include <limits>

#include "device/transfer.h"

namespace purekv::cuda::sm90 {
namespace {

constexpr std::int64_t kStepKeys = 128;
/// Split tiles have pieces of no fewer keys: below it the partial results cost more than the balance gains.
constexpr std::int64_t kLeastPiece = 1024;

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Columns of a tile's score matrix: each segment starts at a multiple of eight, the swizzle's unit.
std::int64_t columns_of(const std::vector<KeySegment>& segments) {
  std::int64_t columns = 0;
  for (const KeySegment& segment : segments) columns += round_up(segment.count, 8);
  return columns;
}

/// What rows [first, end) can see of a range at all.
void add_range(const KeyRange& range, std::int32_t first, std::int32_t end, std::vector<KeySegment>& segments) {
  const bool is_far = range.reach == std::numeric_limits<std::int32_t>::max();
  const std::int32_t low = is_far ? range.first : std::max(range.first, first - range.reach);
  const std::int32_t range_end = range.first + range.count;
  const std::int32_t high = range.causal ? std::min(range_end, end) : range_end;
  if (low >= high) return;
  segments.push_back(
      {.first = low, .count = high - low, .high = range.causal ? 0 : kFar, .low = is_far ? -kFar : -range.reach});
}

/// Runs of rows whose seeds follow each other, one key apart: cells of a frame and the same cells a frame earlier.
void add_seeds(const AttentionPlan& plan, std::int32_t first, std::int32_t end, std::vector<KeySegment>& segments) {
  if (plan.seeds.empty()) return;
  for (std::size_t which = 0; which < 2; ++which)
    for (std::int32_t row = first; row < end;) {
      const auto seed = [&](std::int32_t i) { return plan.seeds[static_cast<std::size_t>(i)][which]; };
      const std::int32_t key = seed(row);
      std::int32_t run = 1;
      if (key >= 0) {
        while (row + run < end && seed(row + run) == key + run) ++run;
        segments.push_back({.first = key, .count = run, .high = key - row, .low = key - row});
      }
      row += run;
    }
}

struct RowTile {
  std::int32_t first = 0, end = 0;
  std::vector<KeySegment> segments;
  std::int64_t columns = 0;
};

std::vector<RowTile> make_row_tiles(const AttentionPlan& plan, std::int32_t tile_rows) {
  std::vector<RowTile> tiles;
  for (const QueryBlock& block : plan.blocks)
    for (std::int32_t done = 0; done < block.count; done += tile_rows) {
      RowTile tile{block.first + done, block.first + std::min(done + tile_rows, block.count), {}, 0};
      for (std::int32_t n = block.range_begin; n < block.range_end; ++n)
        add_range(plan.ranges[static_cast<std::size_t>(n)], tile.first, tile.end, tile.segments);
      add_seeds(plan, tile.first, tile.end, tile.segments);
      // Rows that see nothing still have to be written: a key that none of them sees.
      if (tile.segments.empty()) tile.segments.push_back({.first = 0, .count = 1, .high = -kFar, .low = kFar});
      tile.columns = columns_of(tile.segments);
      tiles.push_back(std::move(tile));
    }
  return tiles;
}

/// Tiles far above the mean first, the longest of them before all; the rest backwards, so that causal rows come
/// longest first too and the tiles of a frame stay together. Returns how many are far above.
std::size_t sort_tiles(std::vector<RowTile>& tiles) {
  std::reverse(tiles.begin(), tiles.end());
  std::int64_t total = 0;
  for (const RowTile& tile : tiles) total += tile.columns;
  const std::int64_t outlier = 3 * total / static_cast<std::int64_t>(std::max<std::size_t>(1, tiles.size()));
  std::stable_sort(tiles.begin(), tiles.end(), [outlier](const RowTile& a, const RowTile& b) {
    return std::max(a.columns, outlier) > std::max(b.columns, outlier);
  });
  return static_cast<std::size_t>(
      std::count_if(tiles.begin(), tiles.end(), [outlier](const RowTile& tile) { return tile.columns > outlier; }));
}

/// Columns [begin, end) of a segment list, begin a multiple of eight.
std::vector<KeySegment> cut(const std::vector<KeySegment>& segments, std::int64_t begin, std::int64_t end) {
  std::vector<KeySegment> pieces;
  std::int64_t at = 0;
  for (const KeySegment& segment : segments) {
    const auto low = static_cast<std::int32_t>(std::max<std::int64_t>(0, begin - at));
    const auto high = static_cast<std::int32_t>(std::min<std::int64_t>(segment.count, end - at));
    if (low < high)
      pieces.push_back({.first = segment.first + low, .count = high - low, .high = segment.high, .low = segment.low});
    at += round_up(segment.count, 8);
  }
  return pieces;
}

class Lister {
 public:
  void add(const RowTile& tile, std::int64_t most_columns) {
    const std::int64_t pieces = tile.columns > most_columns * 3 / 2 ? (tile.columns - 1) / most_columns + 1 : 1;
    if (pieces == 1) {
      append(tile, tile.segments, -1);
      return;
    }
    const std::int64_t size = round_up((tile.columns - 1) / pieces + 1, kStepKeys);
    SplitRows split{tile.first, tile.end, list_.slots, 0};
    for (std::int64_t begin = 0; begin < tile.columns; begin += size, ++split.slots)
      append(tile, cut(tile.segments, begin, begin + size), list_.slots++);
    list_.splits.push_back(split);
  }

  /// Ends the tiles far above the mean.
  void end_outliers() { outliers_ = list_.tiles.size(); }

  TileList take(const TileRequest& request) && {
    const auto longest = [this](std::size_t from) {
      return from < columns_.size()
                 ? *std::max_element(columns_.begin() + static_cast<std::ptrdiff_t>(from), columns_.end())
                 : 0;
    };
    const bool by_head = longest(outliers_) > request.long_keys;
    const std::size_t interleaved = by_head ? outliers_ : columns_.size();
    const std::int32_t heads = by_head ? 1 : request.kv_heads;
    // Fixed turns leave blocks apart by up to the longest tile: so much work again, and more, is left to share.
    const std::int64_t least = 5 * longest(0) * request.sms / 2;
    std::int64_t columns = 0;
    for (std::size_t n = columns_.size(); n > (by_head ? outliers_ : 0) && columns < least; --n) {
      columns += heads * columns_[n - 1];
      list_.shared += heads;
    }
    list_.interleaved = static_cast<std::int32_t>(interleaved);
    return std::move(list_);
  }

 private:
  void append(const RowTile& tile, const std::vector<KeySegment>& segments, std::int32_t slot) {
    const auto begin = static_cast<std::int32_t>(list_.segments.size());
    list_.segments.insert(list_.segments.end(), segments.begin(), segments.end());
    columns_.push_back(columns_of(segments));
    list_.tiles.push_back({.first = tile.first,
                           .end = tile.end,
                           .segment_begin = begin,
                           .segment_end = static_cast<std::int32_t>(list_.segments.size()),
                           .slot = slot});
  }

  TileList list_;
  std::vector<std::int64_t> columns_;  // of each tile listed
  std::size_t outliers_ = 0;
};

}  // namespace

TileList make_tiles(const AttentionPlan& plan, const TileRequest& request) {
  std::vector<RowTile> tiles = make_row_tiles(plan, request.tile_rows);
  const std::size_t outliers = sort_tiles(tiles);
  std::int64_t total = 0;
  for (const RowTile& tile : tiles) total += tile.columns;
  // A third of a multiprocessor's share: no tile then holds up the end by more than that.
  const std::int64_t share = total * request.kv_heads / std::max(1, request.sms);
  const std::int64_t most = std::max(kLeastPiece, round_up(share / 3, kStepKeys));
  Lister lister;
  for (std::size_t n = 0; n < tiles.size(); ++n) {
    if (n == outliers) lister.end_outliers();
    lister.add(tiles[n], most);
  }
  return std::move(lister).take(request);
}

std::shared_ptr<const DeviceTiles> device_tiles(const Context& context, const AttentionPlan& plan,
                                                const TileRequest& request) {
  if (auto kept = std::dynamic_pointer_cast<DeviceTiles>(plan.prepared); kept && kept->request == request) return kept;
  const TileList list = make_tiles(plan, request);
  auto made = std::make_shared<DeviceTiles>();
  made->request = request;
  made->tile_count = static_cast<std::int32_t>(list.tiles.size());
  made->split_count = static_cast<std::int32_t>(list.splits.size());
  made->slots = list.slots;
  made->interleaved = list.interleaved;
  made->shared = list.shared;
  made->tiles = to_device(context, list.tiles);
  made->segments = to_device(context, list.segments);
  made->splits = to_device(context, list.splits);
  made->next = Buffer(context, sizeof(std::int32_t));
  plan.prepared = made;
  return made;
}

}  // namespace purekv::cuda::sm90
