#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/attention_sm90_tiles.h"
#include "kernels/cuda/hopper.cuh"

/// What the producer and the consumers of the Hopper attention kernel share: parameters, shared memory, barriers.
namespace purekv::cuda::sm90 {

inline constexpr int kWarpgroupRows = 64;  ///< packed rows (tokens x group) of a consumer warpgroup
inline constexpr int kConsumers = 2;
inline constexpr int kStepKeys = 128;  ///< keys of a step: one K and one V stage
inline constexpr int kThreads = 128 * (kConsumers + 1);
inline constexpr int kConsumerThreads = 128 * kConsumers;
inline constexpr int kSlots = kWarpgroupRows * kConsumers;  ///< rows of a partial result
inline constexpr int kBoxes = 5;                            ///< K and V boxes of 8, 16, 32, 64, 128 rows

struct Params {
  CUtensorMap q, k[kBoxes], v[kBoxes];
  CUtensorMap out, out_row;  ///< boxes of a warpgroup's tokens, of one token
  const AttentionTile* tiles;
  const KeySegment* segments;
  std::int32_t* next;                    ///< hands out the items after the fixed rounds
  std::int32_t items;                    ///< tiles x KV heads
  std::int32_t tile_count, interleaved;  ///< this many first tiles come with all their heads, the rest head by head
  std::int32_t rounds;                   ///< the first rounds * blocks items are handed out in fixed turns
  std::int32_t kv_heads, group, head_dim;
  std::int32_t tokens;  ///< query rows of a warpgroup: 64 / group
  float scale_log2;
  float* lse;  ///< [heads][rows] or null
  std::int64_t lse_stride;
  float* partial;        ///< [slots][kv_heads][128][D], unnormalised
  float2* partial_sums;  ///< [slots][kv_heads][128] reference (natural logits) and sum
};

/// Columns of a step that some rows do not see: groups [begin, end) of eight columns. Row i sees column c of them
/// where c < limit and i + low <= c <= i + high.
struct alignas(16) StepMask {
  std::int32_t groups;  ///< begin | end << 8 | limit << 16
  std::int32_t high, low, unused;
};

enum StepFlag : int { kFirstStep = 1, kLastStep = 2, kEnd = 4 };

struct alignas(16) StepHeader {
  std::int32_t columns;  ///< of the score matrix: 32, 64, 96 or 128
  std::int32_t flags;
  std::int32_t masks;  ///< -1: every row sees every column
  std::int32_t live;   ///< two a group of eight columns that holds keys; the others are masked whole
  StepMask mask[kStepKeys / 8];
};

struct alignas(16) TileHeader {
  std::int32_t first, end, head, slot;
};

/// Shared memory of a block. D = 128: Q 2 x 32 KiB, K and V 2 x 32 KiB each, 192 KiB and headers.
/// Every operand is chunks of 64 values (128 bytes a row), 128-byte swizzle.
template <int D>
struct Layout {
  static constexpr int kChunks = (D + 63) / 64;
  static constexpr int kStages = D <= 64 ? 4 : 2;
  static constexpr int kQSlots = D <= 96 ? 3 : 2;
  static constexpr int kQChunk = kWarpgroupRows * 128;
  static constexpr int kQBytes = kChunks * kQChunk;  // of a warpgroup
  static constexpr int kChunk = kStepKeys * 128;
  static constexpr int kStageBytes = kChunks * kChunk;
  static constexpr int kK = kQSlots * kConsumers * kQBytes;
  static constexpr int kV = kK + kStages * kStageBytes;
  static constexpr int kSteps = kV + kStages * kStageBytes;
  static constexpr int kTiles = kSteps + kStages * static_cast<int>(sizeof(StepHeader));
  static constexpr int kBarriers = kTiles + kQSlots * static_cast<int>(sizeof(TileHeader));
  static constexpr int kBytes = kBarriers + (2 * kQSlots + 4 * kStages) * 8;
  /// The dynamic segment may begin 16-byte aligned; the swizzle needs 1024.
  static constexpr int kTaken = kBytes + 1024;
};

template <int D>
struct Shared {
  using L = Layout<D>;
  unsigned char* base;
  std::uint32_t address;

  __device__ explicit Shared(unsigned char* raw) {
    base = hopper::align_for_swizzle(raw);
    address = hopper::shared_address(base);
  }
  __device__ std::uint32_t q(int slot, int warpgroup) const {
    return address + (slot * kConsumers + warpgroup) * L::kQBytes;
  }
  __device__ std::uint32_t k(int stage) const { return address + L::kK + stage * L::kStageBytes; }
  __device__ std::uint32_t v(int stage) const { return address + L::kV + stage * L::kStageBytes; }
  /// Headers of tiles and steps are filled and freed with Q's slot and with K's stage.
  __device__ StepHeader* step(unsigned n) const {
    return reinterpret_cast<StepHeader*>(base + L::kSteps) + n % L::kStages;
  }
  __device__ TileHeader* tile(int slot) const { return reinterpret_cast<TileHeader*>(base + L::kTiles) + slot; }
  __device__ std::uint32_t barrier(int n) const { return address + L::kBarriers + n * 8; }
  __device__ std::uint32_t q_full(int slot) const { return barrier(slot); }
  __device__ std::uint32_t q_empty(int slot) const { return barrier(L::kQSlots + slot); }
  __device__ std::uint32_t k_full(int stage) const { return barrier(2 * L::kQSlots + stage); }
  __device__ std::uint32_t k_empty(int stage) const { return barrier(2 * L::kQSlots + L::kStages + stage); }
  __device__ std::uint32_t v_full(int stage) const { return barrier(2 * (L::kQSlots + L::kStages) + stage); }
  __device__ std::uint32_t v_empty(int stage) const { return barrier(2 * L::kQSlots + 3 * L::kStages + stage); }

  /// One thread. Full barriers are completed by the producer's bytes. Q's and K's empty ones by every consumer thread,
  /// which has then read the header; V's by every warp: the four of a warpgroup finish their quarter of a wgmma at
  /// different times. Measured on Hopper: arrivals of all threads cost nothing.
  __device__ void init_barriers() const {
    for (int slot = 0; slot < L::kQSlots; ++slot) {
      hopper::barrier_init(q_full(slot), 1);
      hopper::barrier_init(q_empty(slot), kConsumerThreads);
    }
    for (int stage = 0; stage < L::kStages; ++stage) {
      hopper::barrier_init(k_full(stage), 1);
      hopper::barrier_init(v_full(stage), 1);
      hopper::barrier_init(k_empty(stage), kConsumerThreads);
      hopper::barrier_init(v_empty(stage), kConsumerThreads / 32);
    }
    hopper::barrier_init_fence();
  }
};

/// Place in a ring of stages: stage and parity of use n.
template <int kStages>
struct Turn {
  int stage;
  std::uint32_t parity;
  __device__ explicit Turn(unsigned n) : stage(n % kStages), parity(n / kStages & 1U) {}
};

}  // namespace purekv::cuda::sm90
