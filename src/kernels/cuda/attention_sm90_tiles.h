#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "flow/attention_plan.h"

/// An AttentionPlan as the work list of the Hopper kernel. Built on the host once a plan and kept with it.
namespace purekv::cuda::sm90 {

/// Farther than any row: a bound that never binds.
inline constexpr std::int32_t kFar = 1 << 29;

/// Keys first, first + 1, ... (count of them). Row i of the tile sees key j of them where i + low <= j <= i + high.
/// Seeds are segments too, with low == high: on Hopper a few more columns cost less than their own arithmetic.
struct alignas(16) KeySegment {
  std::int32_t first = 0, count = 0, high = kFar, low = -kFar;
};

/// Query rows [first, end), at most two warpgroups of them, and what they see. Never without a segment.
struct alignas(16) AttentionTile {
  std::int32_t first = 0, end = 0;
  std::int32_t segment_begin = 0, segment_end = 0;
  std::int32_t slot = -1;  ///< of the partial results, where the keys are split; -1 writes the output
  std::int32_t unused[3] = {};
};

/// Rows whose keys are split over slots [slot_begin, slot_begin + slots).
struct alignas(16) SplitRows {
  std::int32_t first = 0, end = 0;
  std::int32_t slot_begin = 0, slots = 0;
};

struct TileRequest {
  std::int32_t tile_rows = 0;  ///< query rows a tile
  std::int32_t kv_heads = 0;
  std::int32_t sms = 0;
  std::int32_t long_keys = 0;  ///< tiles with more keys than this run head by head, whose K and V then stay in L2
  bool operator==(const TileRequest&) const = default;
};

struct TileList {
  std::vector<AttentionTile> tiles;  ///< in the order of work: far above the mean first, then last rows first
  std::vector<KeySegment> segments;
  std::vector<SplitRows> splits;
  std::int32_t slots = 0;
  /// Items are (tile, KV head): first these many tiles with all their heads, then the rest head by head.
  std::int32_t interleaved = 0;
  std::int32_t shared = 0;  ///< this many last items are handed out to whoever is free, the others in fixed turns
};

/// Pure function of the plan and the request: outputs have the same bits on every run.
TileList make_tiles(const AttentionPlan& plan, const TileRequest& request);

/// The list on the device, and the counter that hands out tiles.
struct DeviceTiles final : AttentionPlan::Prepared {
  TileRequest request;
  std::int32_t tile_count = 0, split_count = 0, slots = 0, interleaved = 0, shared = 0;
  Buffer tiles, segments, splits, next;
};

/// From AttentionPlan::prepared where it fits the request, else built and kept there.
std::shared_ptr<const DeviceTiles> device_tiles(const Context& context, const AttentionPlan& plan,
                                                const TileRequest& request);

}  // namespace purekv::cuda::sm90
