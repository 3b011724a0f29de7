#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attention_sm80_tiles.h"

/// The device's side of a line of slots (attention_sm80_tiles.h): which key lies in a slot and which rows see it.
namespace purekv::cuda::sm80 {

inline constexpr std::int32_t kMostRuns = 32;   ///< stretches of a line that shared memory holds at a time
inline constexpr std::int32_t kMostHeads = 32;  ///< KV heads a launch; more take more launches
inline constexpr std::int32_t kFar = 1 << 30;   ///< farther than any two rows, and sums with a row do not overflow

using bf16 = __nv_bfloat16;

/// Rows of one source of one KV head; the stride in elements.
struct KeyRows {
  const bf16 *k = nullptr, *v = nullptr;
  std::int64_t stride = 0;
};

/// The two sources: fresh rows and rows of the cache.
struct HeadKeys {
  KeyRows source[2];
  std::int32_t cached_rows = 0;
};

/// By value to the kernel (1.9 KB of constants): no copy to the device goes ahead of a launch.
struct AttentionArgs {
  const bf16* q = nullptr;
  bf16* out = nullptr;
  float* lse = nullptr;
  std::int64_t q_stride = 0, out_stride = 0, rows = 0;
  const TileItem* items = nullptr;
  const KeyRange* ranges = nullptr;
  const int2* seeds = nullptr;
  float* partial_out = nullptr;   ///< [kv_heads][partial_rows][head_dim], not yet divided by the sum
  float2* partial_sum = nullptr;  ///< [kv_heads][partial_rows]: RowSums::top, sum
  std::int32_t partial_rows = 0;
  std::int32_t head_dim = 0, group = 1;
  std::int32_t first_head = 0, heads = 0;       ///< the KV heads of this launch
  float scale_log2 = 0;                         ///< the caller's scale / ln 2
  bool q_vectors = false, out_vectors = false;  ///< rows can be moved 16 bytes at a time
  bool key_vectors = false;
  HeadKeys keys[kMostHeads];
};

enum class RunKind : std::int32_t { kCached, kFirstSeed, kSecondSeed, kRange, kCausalRange };

/// Slots [begin, end) of the line: keys first, first + step, ... A tile inside [plain_begin, plain_end) needs no mask.
struct Run {
  std::int32_t begin = 0, end = 0;
  std::int32_t plain_begin = 0, plain_end = 0;
  std::int32_t first = 0, step = 1, reach = 0;
  RunKind kind = RunKind::kCached;
};

/// The rows that see a slot.
struct SeenBy {
  std::int32_t first = INT32_MAX, last = INT32_MIN;
};

/// What a block knows of its rows and of the line, in shared memory.
struct LineMemory {
  TileItem item;
  Run runs[kMostRuns];
  std::int32_t slots = 0;    ///< of these runs
  SeenBy seen[kTileKeys];    ///< of a masked tile
  const bf16* k[kTileKeys];  ///< of a mixed tile; null: no key
  const bf16* v[kTileKeys];
  std::int32_t row[kTileRows];   ///< query row of a packed row, -1 beyond the last
  std::int32_t head[kTileRows];  ///< query head of a packed row
};

/// 64 slots; the same in every thread.
struct KeyTile {
  std::int32_t slot = 0;
  std::int32_t run = 0;        ///< the one that holds `slot`
  std::int32_t plain_end = 0;  ///< tiles that end here at the latest are plain too
  std::int32_t step = 1;       ///< of keys from slot to slot
  std::int32_t key = 0;        ///< of the first slot
  bool cached = false;
  bool mixed = false;   ///< not 64 keys of one run: LineMemory says where they lie
  bool masked = false;  ///< some row does not see some slot: LineMemory::seen says which
};

/// Entry `e` of an item's line: cached rows, its ranges, two columns of seeds. Seeds come last, where a tile is masked
/// for the diagonal anyway.
__device__ inline Run run_of(const AttentionArgs& args, const TileItem& item, const HeadKeys& keys, std::int32_t e) {
  const std::int32_t ranges = item.range_end - item.range_begin;
  Run run;
  if (e == 0) {
    run.end = keys.cached_rows;
  } else if (e <= ranges) {
    const KeyRange range = args.ranges[item.range_begin + e - 1];
    const KeySpan span = visible_part(range, item.first, item.first + (item.count - 1) * item.step);
    run.kind = range.causal ? RunKind::kCausalRange : RunKind::kRange;
    run.end = span.end - span.begin;
    run.first = range.first + span.begin * range.step;
    run.step = range.step;
    run.reach = min(range.reach, kFar);
  } else if (e <= ranges + 2) {
    const std::int32_t column = e - ranges;  // 1 or 2, as bits of seed_columns
    run.kind = column == 1 ? RunKind::kFirstSeed : RunKind::kSecondSeed;
    run.end = (item.seed_columns & column) != 0 ? item.count : 0;
    run.first = item.first;
    run.step = item.step;
  }
  return run;
}

/// Where every row of the item sees every key, counted from the run's first slot: [0] to [1].
__device__ inline KeySpan plain_part(const TileItem& item, const Run& run) {
  if (run.kind == RunKind::kCached) return {0, run.end};
  if (run.kind != RunKind::kRange && run.kind != RunKind::kCausalRange) return {0, 0};
  const std::int32_t last_row = item.first + (item.count - 1) * item.step;
  const std::int32_t too_far = last_row - run.reach - run.first;  // keys before first + this one are
  KeySpan plain{too_far > 0 ? (too_far - 1) / run.step + 1 : 0, run.end};
  if (run.kind == RunKind::kCausalRange)
    plain.end = item.first < run.first ? 0 : min(run.end, (item.first - run.first) / run.step + 1);
  return plain;
}

/// One warp writes runs [first, first + 32) of the line; their slots are counted from 0.
__device__ inline void write_runs(const AttentionArgs& args, const HeadKeys& keys, std::int32_t first,
                                  LineMemory& line) {
  const auto lane = static_cast<std::int32_t>(threadIdx.x);
  Run run = run_of(args, line.item, keys, first + lane);
  const KeySpan plain = plain_part(line.item, run);
  std::int32_t end = run.end;
  for (int d = 1; d < 32; d *= 2) {
    const std::int32_t before = __shfl_up_sync(~0U, end, d);
    if (lane >= d) end += before;
  }
  run.begin = end - run.end;
  run.end = end;
  run.plain_begin = run.begin + plain.begin;
  run.plain_end = run.begin + plain.end;
  line.runs[lane] = run;
  if (lane == 31) line.slots = end;
}

/// The tile that begins at `slot`, which lies before `end`; `run` is one at or before its own.
__device__ inline KeyTile find_tile(const LineMemory& line, bool vectors, std::int32_t slot, std::int32_t end,
                                    std::int32_t run) {
  while (line.runs[run].end <= slot) ++run;
  const Run r = line.runs[run];
  KeyTile tile{.slot = slot, .run = run, .plain_end = min(r.plain_end, end), .step = r.step};
  tile.key = r.first + (slot - r.begin) * r.step;
  tile.cached = r.kind == RunKind::kCached;
  const bool seed = r.kind == RunKind::kFirstSeed || r.kind == RunKind::kSecondSeed;
  tile.masked = slot < r.plain_begin || slot + kTileKeys > tile.plain_end;
  tile.mixed = seed || slot + kTileKeys > min(r.end, end);
  if (!vectors) {  // rows that only single elements can be copied from take the way of mixed tiles
    tile.mixed = true;
    tile.plain_end = 0;
  }
  return tile;
}

/// The next tile: a plain one of the same run without a look at the list.
__device__ inline KeyTile next_tile(const LineMemory& line, bool vectors, const KeyTile& tile, std::int32_t end) {
  const std::int32_t slot = tile.slot + kTileKeys;
  if (tile.masked || slot + kTileKeys > tile.plain_end) return find_tile(line, vectors, slot, end, tile.run);
  KeyTile next = tile;
  next.slot = slot;
  next.key += kTileKeys * tile.step;
  return next;
}

/// The first 64 threads write which rows see the slots of a tile and where their keys lie; a barrier comes before it
/// is read.
__device__ inline void write_slots(const AttentionArgs& args, const HeadKeys& head, const KeyTile& tile,
                                   std::int32_t end, LineMemory& line) {
  const auto i = static_cast<std::int32_t>(threadIdx.x);
  if (i >= kTileKeys) return;
  const std::int32_t slot = tile.slot + i;
  SeenBy seen;
  line.k[i] = line.v[i] = nullptr;
  if (slot < end) {
    std::int32_t run = tile.run;
    while (line.runs[run].end <= slot) ++run;
    const Run r = line.runs[run];
    std::int32_t key = r.first + (slot - r.begin) * r.step;
    if (r.kind == RunKind::kCached) {
      seen = {INT32_MIN, INT32_MAX};
    } else if (r.kind == RunKind::kRange || r.kind == RunKind::kCausalRange) {
      seen.first = r.kind == RunKind::kCausalRange ? key : INT32_MIN;
      seen.last = key + r.reach;
    } else {
      seen = {key, key};  // the run of a seed counts the rows that it belongs to
      const int2 seeds = args.seeds[key];
      key = r.kind == RunKind::kFirstSeed ? seeds.x : seeds.y;
    }
    const KeyRows& rows = head.source[r.kind == RunKind::kCached ? 1 : 0];
    if (key >= 0) {
      line.k[i] = rows.k + key * rows.stride;
      line.v[i] = rows.v + key * rows.stride;
    } else {
      seen = {};
    }
  }
  line.seen[i] = seen;
}

}  // namespace purekv::cuda::sm80
