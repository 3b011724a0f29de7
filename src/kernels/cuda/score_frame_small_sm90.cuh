#pragma once

#include "kernels/cuda/score_frame_sm90.cuh"

/// Shared memory, barriers and the producer of the Hopper kernel for scores of frames of up to 256 cells.
namespace purekv::cuda::frames::small {

inline constexpr int kTileRows = kSmallTileRows;  ///< packed rows that a warpgroup scores at a time, cell-major
inline constexpr int kMostKeys = kSmallMostCells;
inline constexpr int kHalfKeys = 128;  ///< of a load, of a product
inline constexpr int kTeams = 4;       ///< warpgroups of a block, which take its tiles in turn
inline constexpr int kThreads = (kTeams + 1) * 128;
inline constexpr int kQuerySlots = 7;
inline constexpr int kKeySlots = 3;
inline constexpr int kKinds = 2;                    ///< of scores: over the frame, over all that a row sees
inline constexpr int kKindStride = kMostKeys + 16;  ///< so that a warp's 16 keys of both kinds lie in all banks

/// What the producer tells a warpgroup of a tile.
struct Tile {
  int start;       ///< prompt row of the frame's first cell
  int first, end;  ///< cells; none: there are no more tiles
  int head;        ///< KV head
  unsigned load;   ///< number of the load of the frame's first 128 keys; the one before it brought the others
  int keys;        ///< of the item, in the warpgroup's last tile of it: their maxima are handed over; else 0
};

/// Every operand is chunks of 64 dims (128 bytes a row), 128-byte swizzle.
template <int D>
struct Layout {
  static constexpr int kChunks = D / 64;
  static constexpr int kKeyChunk = kHalfKeys * 128;
  static constexpr int kKeys = kChunks * kKeyChunk;  ///< of a slot
  static constexpr int kQueryChunk = kTileRows * 128;
  static constexpr int kQueries = kChunks * kQueryChunk;  ///< of a slot
  static constexpr int kBest = kKeySlots * kKeys + kQuerySlots * kQueries;
  static constexpr int kTiles = kBest + kTeams * kKinds * kKindStride * static_cast<int>(sizeof(int));
  static constexpr int kBarriers = kTiles + kQuerySlots * static_cast<int>(sizeof(Tile));
  static constexpr int kBytes = kBarriers + (kQuerySlots + 2 * kTeams + kKeySlots) * 8;
};
static_assert(sizeof(Tile) % 8 == 0 && kQuerySlots <= 2 * kTeams);

template <int D>
struct Shared {
  using L = Layout<D>;
  unsigned char* base;
  std::uint32_t address;

  __device__ explicit Shared(unsigned char* raw) {
    base = hopper::align_for_swizzle(raw);
    address = hopper::shared_address(base);
  }
  __device__ std::uint32_t keys(unsigned load) const { return address + load % kKeySlots * L::kKeys; }
  __device__ std::uint32_t queries(unsigned n) const {
    return address + kKeySlots * L::kKeys + n % kQuerySlots * L::kQueries;
  }
  /// A warpgroup's largest scores of the item's keys so far, as bits: [kKinds][kKindStride].
  __device__ int* best(int team) const { return reinterpret_cast<int*>(base + L::kBest) + team * kKinds * kKindStride; }
  __device__ Tile* tile(unsigned n) const { return reinterpret_cast<Tile*>(base + L::kTiles) + n % kQuerySlots; }
  /// Two a warpgroup: with one a slot a warpgroup could ask for a phase while the one before it, of another
  /// warpgroup's tile, is under way, and would take that for its own.
  __device__ std::uint32_t q_full(unsigned n) const {
    return address + L::kBarriers + (n % kTeams * 2 + n / kTeams % 2) * 8;
  }
  __device__ static unsigned q_parity(unsigned n) { return n / (2 * kTeams) % 2; }
  __device__ std::uint32_t q_empty(unsigned n) const {
    return address + L::kBarriers + (2 * kTeams + n % kQuerySlots) * 8;
  }
  __device__ std::uint32_t k_full(unsigned load) const {
    return address + L::kBarriers + (2 * kTeams + kQuerySlots + load % kKeySlots) * 8;
  }
  __device__ static unsigned k_parity(unsigned load) { return load / kKeySlots % 2; }

  /// One thread. Full barriers are completed by the producer's bytes; a tile's queries and keys have been read once
  /// the four warps of its warpgroup have left them.
  __device__ void init_barriers() const {
    for (unsigned n = 0; n < 2 * kTeams; ++n) hopper::barrier_init(q_full(n), 1);
    for (unsigned n = 0; n < kQuerySlots; ++n) hopper::barrier_init(q_empty(n), 4);
    for (unsigned load = 0; load < kKeySlots; ++load) hopper::barrier_init(k_full(load), 1);
    hopper::barrier_init_fence();
  }
};

/// One thread that hands out tiles and lets the copy engine fetch their rows. Tiles are numbered through all items, the
/// n-th is warpgroup n % kTeams's. Which have been read, keys with them, it knows from their empty barriers alone.
template <int D>
class Producer {
 public:
  using L = Layout<D>;
  __device__ Producer(const Params& params, const Shared<D>& shared) : p_(params), s_(shared) {}

  /// The next item is asked for, and its keys, while so many tiles wait that nobody notices, and when the tiles whose
  /// keys had their place are known to have been read, if an item has tiles enough. The upper half of an item's keys is
  /// free again before its lower one.
  __device__ void run() {
    Work work = work_of(static_cast<int>(blockIdx.x));
    load_upper(work, 0);
    load_lower(work, 0);
    while (work.tiles > 0) {
      Work after{};
      const unsigned load = loads_ - 1;
      const unsigned next = n_ + work.tiles;
      const unsigned asks = min(n_ + kQuerySlots, next);
      const unsigned asks_lower = min(n_ + work.upper + kQuerySlots, next);
      const Item& item = work.item;
      for (int cell = work.top; cell >= item.first; cell -= p_.cells) {
        load_tile(
            {item.start, cell, min(cell + p_.cells, item.end), item.head, load, n_ + kTeams < next ? 0 : item.end});
        if (n_ == asks) {
          after = work_of(take_item(p_, gridDim.x));
          load_upper(after, next);
        }
        if (n_ == asks_lower) load_lower(after, next);
      }
      work = after;
    }
    for (int team = 0; team < kTeams; ++team, ++n_) {
      take_slot({});
      hopper::barrier_arrive(s_.q_full(n_));
    }
  }

 private:
  struct Work {
    Item item;
    int top;         ///< first cell of its first tile: the last rows see the most keys and come first
    unsigned tiles;  ///< none: there are no more items
    unsigned upper;  ///< of these, how many see keys of the upper half
  };

  __device__ Work work_of(int index) const {
    const Item item = item_of(p_, index);
    if (item.end == 0) return {};
    const int top = item.first + (item.end - item.first - 1) / p_.cells * p_.cells;
    const int lowest = max(item.first, kHalfKeys / p_.cells * p_.cells);
    return {item, top, static_cast<unsigned>((top - item.first) / p_.cells + 1),
            item.end > kHalfKeys ? static_cast<unsigned>((top - lowest) / p_.cells + 1) : 0};
  }

  /// Until all tiles before the `end`-th have been read.
  __device__ void wait_read(unsigned end) {
    for (; read_ < end; ++read_) hopper::barrier_wait(s_.q_empty(read_), read_ / kQuerySlots % 2);
  }

  __device__ void take_slot(const Tile& tile) {
    if (n_ >= kQuerySlots) wait_read(n_ - kQuerySlots + 1);
    *s_.tile(n_) = tile;
  }

  /// The box may reach into rows behind the tile's; nobody looks at these.
  __device__ void load_tile(const Tile& tile) {
    take_slot(tile);
    hopper::barrier_expect(s_.q_full(n_), L::kChunks * p_.cells * p_.group * 128);
    for (int chunk = 0; chunk < L::kChunks; ++chunk)
      hopper::load_box(s_.queries(n_) + chunk * L::kQueryChunk, &p_.q, s_.q_full(n_), chunk * 64, tile.head * p_.group,
                       tile.start + tile.first);
    ++n_;
  }

  /// `tile`: number of the item's first one.
  __device__ void load_upper(const Work& work, unsigned tile) {
    if (work.upper > 0) load_keys(work.item, kHalfKeys, tile + work.upper);
  }
  __device__ void load_lower(const Work& work, unsigned tile) {
    if (work.tiles > 0) load_keys(work.item, 0, tile + work.tiles);
  }

  /// Keys from cell `first` on, which tiles before the `end`-th read.
  __device__ void load_keys(const Item& item, int first, unsigned end) {
    wait_read(ends_[0]);
    for (int slot = 0; slot + 1 < kKeySlots; ++slot) ends_[slot] = ends_[slot + 1];
    ends_[kKeySlots - 1] = end;
    const int boxes = (min(item.end - first, kHalfKeys) + kBoxKeys - 1) / kBoxKeys;
    hopper::barrier_expect(s_.k_full(loads_), boxes * L::kChunks * kBoxKeys * 128);
    for (int box = 0; box < boxes; ++box)
      for (int chunk = 0; chunk < L::kChunks; ++chunk)
        hopper::load_box(s_.keys(loads_) + chunk * L::kKeyChunk + box * kBoxKeys * 128, &p_.k, s_.k_full(loads_),
                         chunk * 64, item.start + first + box * kBoxKeys, item.head);
    ++loads_;
  }

  const Params& p_;
  const Shared<D>& s_;
  unsigned n_ = 0;                 ///< the next tile
  unsigned read_ = 0;              ///< tiles that are known to have been read
  unsigned loads_ = 0;             ///< of keys
  unsigned ends_[kKeySlots] = {};  ///< of the last loads, oldest first: tiles before the end-th read their keys
};

}  // namespace purekv::cuda::frames::small
