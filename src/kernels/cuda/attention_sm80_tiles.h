#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/buffer.h"
#include "kernels/attention.h"

/// From a plan to the work items of the mma.sync kernel.
///
/// The keys of a query tile lie end to end in one line of slots: cached rows, first seeds, second seeds, then the
/// visible part of each range. A key tile is 64 slots wherever they fall, so short ranges share tiles and only the
/// line's end is rounded up. A seed is a slot that one row sees.
namespace purekv::cuda::sm80 {

inline constexpr std::int32_t kTileRows = 128;  ///< packed rows (tokens x heads of a KV group, token-major) a block
inline constexpr std::int32_t kTileKeys = 64;   ///< slots a step

/// A line of slots is split where it is longer than a 256th of all work (on an H100, 264 blocks run at a time, and one
/// would be alone at the end), into pieces of half of that: 512 at the most. None is shorter than 16 key tiles: a
/// piece costs a write and a read of its rows' float32 sums.
inline constexpr std::int64_t kWorkShares = 256;
inline constexpr std::int64_t kMostPieces = 2 * kWorkShares;
inline constexpr std::int64_t kLeastPieceTiles = 16;

/// Query rows first, first + step, ... and a stretch of their slots, for one KV head.
struct TileItem {
  std::int32_t first = 0, count = 0, step = 1;
  std::int32_t range_begin = 0, range_end = 0;  ///< into AttentionPlan::ranges
  std::int32_t slot_begin = 0, slot_end = 0;    ///< cut off at the line's end
  std::int32_t seed_columns = 0;                ///< bit c: some row has seeds[c]
  std::int32_t partial = -1;                    ///< first row of its partial results; -1: all slots are here
};

/// The partial results [begin + i * count * group, ...) of the same rows, i < pieces, become one.
struct MergeItem {
  std::int32_t first = 0, count = 0, step = 1;
  std::int32_t begin = 0, pieces = 0;
};

/// What the items depend on: shapes only, so that sums are cut alike on every GPU.
struct TileShape {
  std::int32_t rows = 0;         ///< query rows
  std::int32_t cached_rows = 0;  ///< of the longest KV head
  std::int32_t group = 1, kv_heads = 1;
  friend bool operator==(const TileShape&, const TileShape&) = default;
};

struct TileList {
  std::vector<TileItem> items;    ///< longest first, in powers of two
  std::vector<MergeItem> merges;  ///< of the items that are split
  std::int32_t partial_rows = 0;  ///< a KV head
};

/// Keys [begin, end) of a range, counted in its steps.
struct KeySpan {
  std::int32_t begin = 0, end = 0;
};

/// What rows in [first_row, last_row] can see of a range.
constexpr KeySpan visible_part(const KeyRange& range, std::int32_t first_row, std::int32_t last_row) {
  const std::int64_t first = range.first;
  std::int64_t end = range.count;
  if (range.causal) end = last_row < first ? 0 : std::min<std::int64_t>(end, (last_row - first) / range.step + 1);
  const std::int64_t farthest = static_cast<std::int64_t>(first_row) - range.reach;
  const std::int64_t begin = farthest > first ? (farthest - first + range.step - 1) / range.step : 0;
  return {static_cast<std::int32_t>(std::min(begin, end)), static_cast<std::int32_t>(end)};
}

/// A null plan: one block of all rows that sees the cached rows only.
TileList make_tiles(const AttentionPlan* plan, const TileShape& shape);

/// The same on the device, kept with the plan where no cached rows take part.
struct DeviceTiles final : AttentionPlan::Prepared {
  TileShape shape;
  std::int32_t items = 0, merges = 0, partial_rows = 0;
  Buffer item_list, merge_list, ranges, seeds;
};

std::shared_ptr<const DeviceTiles> device_tiles(const Context& context, const AttentionParams& params);

}  // namespace purekv::cuda::sm80
