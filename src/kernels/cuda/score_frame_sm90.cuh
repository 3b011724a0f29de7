#pragma once

#include "kernels/cuda/frame_rows.h"
#include "kernels/cuda/wgmma.cuh"

/// Shared memory, barriers and the producer of the Hopper kernel for frame scores.
namespace purekv::cuda::frames {

/// What a block of a GPU of capability 9.0 can have; both kernels for frame scores take less.
inline constexpr int kMostShared = 227 * 1024;

inline constexpr int kTileRows = kCellTileRows;  ///< packed rows of an item: cells x heads of a group, cell-major
inline constexpr int kWarpgroupRows = 64;
inline constexpr int kTeams = 2;        ///< of a block, each with its items, shared memory and producer
inline constexpr int kConsumers = 256;  ///< threads of a team, two warpgroups
inline constexpr int kThreads = kTeams * kConsumers + 128;
inline constexpr int kStepKeys = 128;
inline constexpr int kStages = 2;
inline constexpr int kBoxKeys = 32;

struct Params {
  CUtensorMap q, k;  ///< boxes of `cells` cells with a group's heads, of 32 keys
  const CellTile* tiles;
  unsigned* next;
  int items;  ///< tiles x KV heads, heads innermost: neighbours in q
  int kv_heads, group, cells;
  float scale;       ///< to base-2 logits
  const float* lse;  ///< [heads, rows] or null
  float* local;      ///< [kv_heads, rows]
  float* self;       ///< the same, or null
  long long rows;
};

/// The kernel for frames of up to 256 cells and groups of up to 64; `params.tiles` are FrameRows::small_items.
void score_small_frames(const Context& context, const Params& params, std::int64_t head_dim);

/// What the producer tells the consumers of an item.
struct Item {
  int start;       ///< prompt row of the frame's first cell
  int first, end;  ///< cells; none: there are no more items
  int head;        ///< KV head
};

__device__ inline Item item_of(const Params& p, int index) {
  if (index >= p.items) return {};
  const CellTile tile = p.tiles[index / p.kv_heads];
  return {tile.start, tile.first, tile.end, index % p.kv_heads};
}

/// The next item for one of `takers`, who began with the first items, one each; past the end there are none. Every
/// taker asks until it is told no, once: the last answer of all is known by its number, and clears the counter.
__device__ inline int take_item(const Params& p, unsigned takers) {
  const auto count = static_cast<unsigned>(p.items);
  const unsigned taken = atomicAdd(p.next, 1U);
  if (taken + 1 == count) *p.next = 0;
  return static_cast<int>(min(taken + takers, count));
}

/// An item's loads of keys. The first pass takes steps in order; the second begins with the last two, which are still
/// there, and goes down: load n is of step n, then of 2 * steps - 3 - n.
struct KeyLoads {
  int steps;
  __device__ explicit KeyLoads(const Item& item) : steps((item.end + kStepKeys - 1) / kStepKeys) {}
  __device__ int count() const { return steps + second(); }
  __device__ int second() const { return max(steps - 2, 0); }  ///< the second pass's first load
  __device__ int step(int load) const { return load < steps ? load : 2 * steps - 3 - load; }
};

/// Every operand is chunks of 64 dims (128 bytes a row), 128-byte swizzle.
template <int D>
struct Layout {
  static constexpr int kChunks = D / 64;
  static constexpr int kChunk = kTileRows * 128;  ///< of queries or of a stage
  static constexpr int kKeys = kChunks * kChunk;
  static constexpr int kTables = kKeys + kStages * kChunks * kChunk;
  static constexpr int kItem = kTables + 2 * kTileRows * static_cast<int>(sizeof(float2));
  static constexpr int kBarriers = kItem + static_cast<int>(sizeof(Item));
  /// Of a team; the swizzle needs multiples of 1024.
  static constexpr int kBytes = (kBarriers + (2 + 2 * kStages) * 8 + 1023) / 1024 * 1024;
};

template <int D>
struct Shared {
  using L = Layout<D>;
  unsigned char* base;
  std::uint32_t address;

  __device__ Shared(unsigned char* raw, int team) {
    base = hopper::align_for_swizzle(raw) + team * L::kBytes;
    address = hopper::shared_address(base);
  }
  __device__ std::uint32_t queries() const { return address; }
  __device__ std::uint32_t keys(unsigned load) const { return address + L::kKeys + load % kStages * L::kKeys; }
  /// Of the n-th item, [kTileRows]: log-sum-exps, negative, of a row over its frame and over all it sees. Two, because
  /// one warpgroup may be an item ahead.
  __device__ float2* table(unsigned n) const {
    return reinterpret_cast<float2*>(base + L::kTables) + n % 2 * kTileRows;
  }
  __device__ Item* item() const { return reinterpret_cast<Item*>(base + L::kItem); }
  __device__ std::uint32_t q_full() const { return address + L::kBarriers; }
  __device__ std::uint32_t q_empty() const { return q_full() + 8; }
  __device__ std::uint32_t k_full(unsigned load) const { return q_full() + 16 + load % kStages * 8; }
  __device__ std::uint32_t k_empty(unsigned load) const { return k_full(load) + kStages * 8; }

  /// One thread. Full barriers are completed by the producer's bytes; keys are empty once every consumer warp has left
  /// them, queries once every thread has, for each reads the item that lies beside them.
  __device__ void init_barriers() const {
    hopper::barrier_init(q_full(), 1);
    hopper::barrier_init(q_empty(), kConsumers);
    for (unsigned stage = 0; stage < kStages; ++stage) {
      hopper::barrier_init(k_full(stage), 1);
      hopper::barrier_init(k_empty(stage), kConsumers / 32);
    }
    hopper::barrier_init_fence();
  }
};

/// One thread that hands out items and lets the copy engine fetch their rows.
template <int D>
class Producer {
 public:
  using L = Layout<D>;
  __device__ Producer(const Params& params, const Shared<D>& shared, int team) : p_(params), s_(shared), team_(team) {}

  /// The first item is the team's own; what comes next is known an item ahead, for its queries to be on their way
  /// from device memory.
  __device__ void run() {
    int index = static_cast<int>(blockIdx.x) * kTeams + team_;
    int next = index < p_.items ? take() : p_.items;
    Item item = item_of(p_, index);
    unsigned n = 0;
    for (; index < p_.items; ++n) {
      load_queries(item, n);
      load_keys(item);
      const Item after = item_of(p_, next);
      const int after_next = next < p_.items ? take() : p_.items;
      if (next < p_.items)
        for (int chunk = 0; chunk < L::kChunks; ++chunk)
          hopper::prefetch_box(&p_.q, chunk * 64, after.head * p_.group, after.start + after.first);
      index = next;
      next = after_next;
      item = after;
    }
    hopper::barrier_wait(s_.q_empty(), n % 2 ^ 1U);
    s_.item()->end = 0;
    hopper::barrier_arrive(s_.q_full());
  }

 private:
  __device__ int take() const { return take_item(p_, kTeams * gridDim.x); }

  /// The box may reach into rows behind the item's; nobody looks at these.
  __device__ void load_queries(const Item& item, unsigned n) const {
    hopper::barrier_wait(s_.q_empty(), n % 2 ^ 1U);
    *s_.item() = item;
    hopper::barrier_expect(s_.q_full(), L::kChunks * p_.cells * p_.group * 128);
    for (int chunk = 0; chunk < L::kChunks; ++chunk)
      hopper::load_box(s_.queries() + chunk * L::kChunk, &p_.q, s_.q_full(), chunk * 64, item.head * p_.group,
                       item.start + item.first);
  }

  __device__ void load_keys(const Item& item) {
    const KeyLoads loads(item);
    for (int n = 0; n < loads.count(); ++n, ++loads_) {
      hopper::barrier_wait(s_.k_empty(loads_), loads_ / kStages % 2 ^ 1U);
      const int first = loads.step(n) * kStepKeys;
      const int boxes = (min(item.end - first, kStepKeys) + kBoxKeys - 1) / kBoxKeys;
      hopper::barrier_expect(s_.k_full(loads_), boxes * L::kChunks * kBoxKeys * 128);
      for (int box = 0; box < boxes; ++box)
        for (int chunk = 0; chunk < L::kChunks; ++chunk)
          hopper::load_box(s_.keys(loads_) + chunk * L::kChunk + box * kBoxKeys * 128, &p_.k, s_.k_full(loads_),
                           chunk * 64, item.start + first + box * kBoxKeys, item.head);
    }
  }

  const Params& p_;
  const Shared<D>& s_;
  int team_;
  unsigned loads_ = 0;
};

}  // namespace purekv::cuda::frames
