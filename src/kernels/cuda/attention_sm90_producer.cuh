#pragma once

#include "kernels/cuda/attention_sm90_shared.cuh"

/// The producer warp: walks tiles and their key segments, describes every step in a header and lets the copy engine
/// fill the stages. Consumers know nothing of plans: they follow the stream of headers.
namespace purekv::cuda::sm90 {

/// One box of a stage, a lane each.
struct Box {
  int rows = 0, key = 0, at = 0;
};

template <int D>
class Producer {
 public:
  using L = Layout<D>;
  __device__ Producer(const Params& params, const Shared<D>& shared)
      : p_(params), s_(shared), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    run_fixed();
    run_shared();
    finish();
  }

 private:
  /// One item of each of the first rounds. Lane n holds the tile of round n of each 32, and its segments are in L1 from
  /// then on, so that tiles of one step do not wait for their descriptors.
  __device__ void run_fixed() {
    for (int begin = 0; begin < p_.rounds; begin += 32) {
      const int count = min(32, p_.rounds - begin);
      const int held_item = fixed_item(begin + min(lane_, count - 1));
      const AttentionTile held = tile_of(held_item);
      asm volatile("" ::"r"(p_.segments[held.segment_begin].count));
      AttentionTile tile = from_lane(held, 0);
      KeySegment mine = segment_of(tile);
      for (int n = 0; n < count; ++n) {
        const AttentionTile next = from_lane(held, min(n + 1, count - 1));
        const KeySegment next_mine = segment_of(next);
        const int head = place_of(from_lane(held_item, n)).head;
        load_queries(tile, head);
        load_keys(tile, mine, head);
        tile = next;
        mine = next_mine;
      }
    }
  }

  /// Blocks take turns there and back. Causal tiles come longest first: with the same order in every round the first
  /// block falls behind the last one by more keys each time, until the blocks read K and V of a whole long head at
  /// once, more than L2 holds (128k rows on an H200: 174 GB from memory, there and back 52).
  __device__ int fixed_item(int round) const {
    const auto block = static_cast<int>(blockIdx.x);
    const auto blocks = static_cast<int>(gridDim.x);
    return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
  }

  /// The last rounds go to whoever is free. Descriptors are read one and two items ahead.
  __device__ void run_shared() {
    int item = from_lane(take_item(), 0);
    int next = from_lane(take_item(), 0);
    AttentionTile tile = tile_of(item);
    KeySegment mine = segment_of(tile);
    AttentionTile next_tile = tile_of(next);
    while (item < p_.items) {
      const KeySegment next_mine = segment_of(next_tile);
      const int taken = take_item();
      const int head = place_of(item).head;
      load_queries(tile, head);
      load_keys(tile, mine, head);
      item = next;
      next = from_lane(taken, 0);
      tile = next_tile;
      next_tile = tile_of(next);
      mine = next_mine;
    }
  }

  /// In lane 0 only, so that nobody waits for it before it is needed.
  __device__ int take_item() const {
    return lane_ == 0 ? atomicAdd(p_.next, 1) + p_.rounds * static_cast<int>(gridDim.x) : 0;
  }
  struct Place {
    int tile, head;
  };
  __device__ Place place_of(int item) const {
    const int first = p_.interleaved * p_.kv_heads;
    if (item < first) return {item / p_.kv_heads, item % p_.kv_heads};
    const int rest = p_.tile_count - p_.interleaved;
    return {p_.interleaved + (item - first) % rest, (item - first) / rest};
  }
  __device__ AttentionTile tile_of(int item) const { return p_.tiles[place_of(min(item, p_.items - 1)).tile]; }
  /// Lane n holds segment n of the tile (of each 32).
  __device__ KeySegment segment_of(const AttentionTile& tile, int begin = 0) const {
    return p_.segments[min(tile.segment_begin + begin + lane_, tile.segment_end - 1)];
  }
  __device__ static int from_lane(int value, int lane) { return __shfl_sync(~0U, value, lane); }
  __device__ static AttentionTile from_lane(const AttentionTile& tile, int lane) {
    return {__shfl_sync(~0U, tile.first, lane), __shfl_sync(~0U, tile.end, lane),
            __shfl_sync(~0U, tile.segment_begin, lane), __shfl_sync(~0U, tile.segment_end, lane),
            __shfl_sync(~0U, tile.slot, lane)};
  }
  __device__ static KeySegment from_lane(const KeySegment& mine, int lane) {
    return {__shfl_sync(~0U, mine.first, lane), __shfl_sync(~0U, mine.count, lane), __shfl_sync(~0U, mine.high, lane),
            __shfl_sync(~0U, mine.low, lane)};
  }

  /// Boxes {64 dims, group heads, tokens}: rows in token-major order, straight from the projection's output. Rows past
  /// the tile's end are loaded too (or zero past the tensor); nobody stores them.
  __device__ void load_queries(const AttentionTile& tile, int head) {
    const Turn<L::kQSlots> turn(tiles_);
    hopper::barrier_wait(s_.q_empty(turn.stage), turn.parity ^ 1U);
    const int boxes = (tile.end - tile.first > p_.tokens ? 2 : 1) * L::kChunks;
    if (lane_ == 0) {
      *s_.tile(turn.stage) = {tile.first, tile.end, head, tile.slot};
      hopper::barrier_expect(s_.q_full(turn.stage), boxes * p_.tokens * p_.group * 128);
    }
    __syncwarp();
    if (lane_ < boxes) {
      const int warpgroup = lane_ / L::kChunks;
      const int chunk = lane_ % L::kChunks;
      hopper::load_box(s_.q(turn.stage, warpgroup) + chunk * L::kQChunk, &p_.q, s_.q_full(turn.stage), chunk * 64,
                       head * p_.group, tile.first + warpgroup * p_.tokens);
    }
    ++tiles_;
  }

  __device__ void load_keys(const AttentionTile& tile, KeySegment mine, int head) {
    int index = 0;
    int done = 0;  // keys of the segment that earlier steps have
    int flags = kFirstStep;
    const int count = tile.segment_end - tile.segment_begin;
    KeySegment segment = from_lane(mine, 0);
    while ((flags & kLastStep) == 0) {
      const Turn<L::kStages> turn(steps_);
      hopper::barrier_wait(s_.k_empty(turn.stage), turn.parity ^ 1U);
      StepHeader* header = s_.step(steps_);
      Box box;
      int boxes = 0;
      int column = 0;
      int masks = 0;
      while (column < kStepKeys) {
        const int taken = min(segment.count - done, kStepKeys - column);
        const bool ends = done + taken == segment.count;
        const bool last = ends && index + 1 == count;
        const int rows = (taken + 7) & ~7;
        masks += describe(tile, segment, done, taken, column, header->mask + masks);
        // P V reads V in steps of 32 rows: the last ones have to be loaded, masked or not.
        const int loaded = last ? ((column + rows + 31) & ~31) - column : rows;
        for (int at = 0; at < loaded; ++boxes) {
          const int size = 1 << (31 - __clz(loaded - at));
          if (lane_ == boxes) box = {size, segment.first + done + at, column + at};
          at += size;
        }
        column += rows;
        done += taken;
        if (!ends) continue;
        if (last) {
          flags |= kLastStep;
          break;
        }
        ++index;
        if (index % 32 == 0) mine = segment_of(tile, index);
        segment = from_lane(mine, index % 32);
        done = 0;
      }
      publish(header, column, masks, flags);
      load(box, column, s_.k(turn.stage), p_.k, s_.k_full(turn.stage), head);
      load_values();
      pending_ = {box, column, head, true};
      ++steps_;
      flags &= ~kFirstStep;
    }
  }

  /// Writes the mask of a piece of a segment, if any of the tile's rows needs one. Returns how many were written.
  __device__ int describe(const AttentionTile& tile, const KeySegment& segment, int done, int taken, int column,
                          StepMask* mask) const {
    const int to_column = column - segment.first - done;
    const int end = column + taken;
    const int high = segment.high + to_column;
    const int low = segment.low + to_column;
    // Every row sees the columns between these two.
    const int all_begin = min(max(tile.end - 1 + low, column), end);
    const int all_end = min(max(tile.first + high + 1, column), end);
    const bool ragged = taken % 8 != 0;
    const int begin_group = all_begin > column ? column / 8 : all_end / 8;
    const int end_group = all_end < end || ragged ? (end + 7) / 8 : (all_begin + 7) / 8;
    if (begin_group >= end_group) return 0;
    if (lane_ == 0) *mask = {begin_group | end_group << 8 | end << 16, high, low, 0};
    return 1;
  }

  __device__ void publish(StepHeader* header, int column, int masks, int flags) const {
    if (lane_ != 0) return;
    header->columns = (column + 31) & ~31;
    header->flags = flags;
    header->masks = masks == 0 && column % 32 == 0 ? -1 : masks;
    header->live = column / 4;
  }

  __device__ void load(const Box& box, int column, std::uint32_t stage, const CUtensorMap* maps, std::uint32_t barrier,
                       int head) const {
    if (lane_ == 0) hopper::barrier_expect(barrier, ((column + 31) & ~31) * L::kChunks * 128);
    __syncwarp();
    if (box.rows == 0) return;
    const CUtensorMap* map = maps + (28 - __clz(box.rows));
#pragma unroll
    for (int chunk = 0; chunk < L::kChunks; ++chunk)
      hopper::load_box(stage + chunk * L::kChunk + box.at * 128, map, barrier, chunk * 64, box.key, head);
  }

  /// Values go one step behind the keys, in the order of use.
  __device__ void load_values() {
    __syncwarp();
    if (!pending_.any) return;
    const Turn<L::kStages> turn(steps_ - 1);
    hopper::barrier_wait(s_.v_empty(turn.stage), turn.parity ^ 1U);
    load(pending_.box, pending_.column, s_.v(turn.stage), p_.v, s_.v_full(turn.stage), pending_.head);
    pending_.any = false;
  }

  __device__ void finish() {
    const Turn<L::kStages> turn(steps_);
    hopper::barrier_wait(s_.k_empty(turn.stage), turn.parity ^ 1U);
    if (lane_ == 0) {
      s_.step(steps_)->flags = kEnd;
      hopper::barrier_arrive(s_.k_full(turn.stage));
    }
    load_values();
  }

  struct Pending {
    Box box;
    int column = 0, head = 0;
    bool any = false;
  };

  const Params& p_;
  const Shared<D>& s_;
  int lane_;
  unsigned tiles_ = 0, steps_ = 0;
  Pending pending_;
};

}  // namespace purekv::cuda::sm90
