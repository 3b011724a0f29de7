#pragma once

#include <algorithm>
#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

/// The main loop of Hopper's own products, x [rows, in] times weights [out, in], for kernels that finish what they
/// multiply before it is stored. Persistent clusters of two blocks; a block has one producer thread and two consumer
/// warpgroups, 64 rows each, and makes tiles of 128 rows x 256 weight rows. A cluster's blocks have neighbouring rows
/// and the same weights, of which each fetches half for both. A tile takes 2 * 128 * 256 * in FLOPs; a step of it (128
/// bytes along k) 48 KiB of operands, of which a block fetches 32 itself.
///
/// Tried and not faster (H200, at its power limit): warpgroups that take smaller tiles in turn (5 to 9 % slower), one
/// that trails the other by 1 to 3 stages, no multicast (3 % slower).
namespace purekv::cuda::products {

inline constexpr int kTileRows = 128;  ///< of x, a block
inline constexpr int kHalfCols = 128;  ///< weight rows that one block of a cluster fetches
inline constexpr int kCluster = 2;
inline constexpr int kConsumers = 2;  ///< warpgroups
inline constexpr int kThreads = 128 * (kConsumers + 1);
inline constexpr int kStages = 4;
inline constexpr int kLine = 128;  ///< bytes of k in a stage
inline constexpr int kInstructions = kLine / 32;
inline constexpr int kOperand = 128 * kLine;      ///< x's, or half of the weights' share of a stage
inline constexpr int kStageBytes = 3 * kOperand;  ///< x, two halves
inline constexpr int kChunkCols = 64;             ///< of a result that leaves through shared memory, 128 bytes
inline constexpr int kChunk = 64 * kLine;         ///< 64 rows of them
inline constexpr int kChunks = kHalfCols / kChunkCols;
inline constexpr int kOut = kStages * kStageBytes;
inline constexpr int kTerms = kOut + kConsumers * kChunks * kChunk;
inline constexpr int kTermBytes = 2 * kHalfCols * static_cast<int>(sizeof(float));  ///< of a warpgroup
inline constexpr int kBarriers = kTerms + kConsumers * kTermBytes;
inline constexpr int kShared = kBarriers + 2 * kStages * 8;
/// Registers: 128 x 40 + 256 x 232, of 168 x 384 at the start.
inline constexpr int kProducerRegisters = 40;
inline constexpr int kConsumerRegisters = 232;

struct Product {
  CUtensorMap x, weights[2];  ///< weights: of a tile's first and second 128 columns
  int rows;
  int row_tiles, col_tiles;  ///< of a cluster: 256 rows
  int row_group;             ///< row tiles that share a sweep over the weights
  int steps;                 ///< stages along k
  const float* x_scales;     ///< [rows] fp8
};

/// Place of use n in the ring.
struct Turn {
  int stage;
  std::uint32_t parity;
  __device__ explicit Turn(unsigned n) : stage(n % kStages), parity(n / kStages & 1U) {}
};

struct Shared {
  unsigned char* raw;
  std::uint32_t base;
  __device__ explicit Shared(unsigned char* raw) : raw(raw), base(hopper::shared_address(raw)) {}
  __device__ std::uint32_t stage(int n) const { return base + n * kStageBytes; }
  /// Results of a warpgroup: 64 rows of 64 columns, swizzled
  __device__ std::uint32_t out(int warpgroup, int chunk) const {
    return base + kOut + (warpgroup * kChunks + chunk) * kChunk;
  }
  /// [2][128] scales or biases of a warpgroup
  __device__ float* terms(int warpgroup) const {
    return reinterpret_cast<float*>(raw + kTerms + warpgroup * kTermBytes);
  }
  __device__ std::uint32_t full(int stage) const { return base + kBarriers + stage * 8; }
  __device__ std::uint32_t empty(int stage) const { return base + kBarriers + (kStages + stage) * 8; }

  /// One thread. A stage is empty once every consumer warp of the cluster has left it: each block's share of the
  /// weights goes to both blocks.
  __device__ void init() const {
    for (int n = 0; n < kStages; ++n) {
      hopper::barrier_init(full(n), 1);
      hopper::barrier_init(empty(n), kCluster * kConsumers * 4);
    }
    hopper::barrier_init_fence();
  }
};

/// Tiles of a cluster: n-th of those in an order that sweeps the columns once for each group of row tiles.
struct Place {
  int row, tile_col;
  __device__ Place(const Product& p, int n, std::uint32_t rank) {
    const int of_group = p.row_group * p.col_tiles;
    const int first = n / of_group * p.row_group;
    const int size = min(p.row_tiles - first, p.row_group);
    const int in_group = n % of_group;
    row = ((first + in_group % size) * kCluster + static_cast<int>(rank)) * kTileRows;
    tile_col = in_group / size;
  }
};

template <class Work>
__device__ void for_tiles(const Product& p, std::uint32_t rank, const Work& work) {
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  for (int n = static_cast<int>(blockIdx.x) / kCluster; n < p.row_tiles * p.col_tiles; n += clusters)
    work(Place(p, n, rank));
}

/// One thread. `kStep`: weight rows from one tile to the next; 256 where both halves come from one weight.
template <int kValues, int kStep>
__device__ void produce(const Product& p, const Shared& shared, std::uint32_t rank) {
  const CUtensorMap* weight = &p.weights[rank];
  const int half = kStep == 2 * kHalfCols ? static_cast<int>(rank) * kHalfCols : 0;
  unsigned use = 0;
  for_tiles(p, rank, [&](const Place& place) {
    for (int step = 0; step < p.steps; ++step, ++use) {
      const Turn turn(use);
      hopper::barrier_wait(shared.empty(turn.stage), turn.parity ^ 1U);
      const std::uint32_t full = shared.full(turn.stage);
      const std::uint32_t to = shared.stage(turn.stage);
      hopper::barrier_expect(full, kStageBytes);
      hopper::load_box(to, &p.x, full, step * kValues, place.row, 0);
      hopper::load_box_to(3, to + (1 + rank) * kOperand, weight, full, step * kValues, place.tile_col * kStep + half,
                          0);
    }
  });
}

/// Lanes 0 and 1 tell both blocks that this warp has left the stage.
__device__ __forceinline__ void release(const Shared& shared, int stage) {
  const unsigned lane = threadIdx.x % 32;
  if (lane < kCluster) hopper::barrier_arrive_at(shared.empty(stage), lane);
}

/// d[64 rows][256 columns] of a tile: adds steps [first, end).
template <bool kFp8>
__device__ __forceinline__ void multiply(float (&d)[128], const Shared& shared, int warpgroup, unsigned& use, int first,
                                         int end) {
  for (int step = first; step < end; ++step, ++use) {
    const Turn turn(use);
    hopper::barrier_wait(shared.full(turn.stage), turn.parity);
    const std::uint32_t at = shared.stage(turn.stage);
    const std::uint64_t a = hopper::swizzled_operand(at + warpgroup * (kOperand / 2), 16);
    const std::uint64_t b = hopper::swizzled_operand(at + kOperand, 16);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInstructions; ++i)  // 32 bytes along k are two address units
      hopper::multiply_shared_256<kFp8>(d, a + 2 * i, b + 2 * i, step > 0 || i > 0 ? 1 : 0);
    hopper::wgmma_commit();
    hopper::wgmma_wait<1>();
    if (step > first) release(shared, Turn(use - 1).stage);
  }
  hopper::wgmma_wait<0>();
  hopper::pin(d);
  if (end > first) release(shared, Turn(use - 1).stage);
}

/// Scales of this thread's two rows of x. Read before the products, whose time hides the way to memory.
struct RowScales {
  float of[2] = {1, 1};
};

/// The first of this thread's rows of a tile; the other is 8 below.
__device__ __forceinline__ int first_row(const Place& place, int warpgroup) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  return place.row + warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4;
}

template <bool kFp8>
__device__ __forceinline__ RowScales read_row_scales(const Product& p, const Place& place, int warpgroup) {
  RowScales scales;
  const int row = first_row(place, warpgroup);
  if constexpr (kFp8)
    for (int r = 0; r < 2; ++r)
      if (row + 8 * r < p.rows) scales.of[r] = __ldg(p.x_scales + row + 8 * r);
  return scales;
}

/// Bytes from a row's first of a chunk to where this lane's eight columns of group `two` (sixteen of them) lie: the
/// copy engine's swizzle. For store_matrices, which wants two groups of eight columns and both halves of 16 rows.
__device__ __forceinline__ int swizzled(int two, int lane, int row) {
  return ((two % 4 * 2 + lane / 16) ^ (row % 8)) * 16;
}

/// The kernel's body but for what becomes of a tile: finish(shared, place, warpgroup, d, use) multiplies and stores.
template <bool kFp8, int kStep, class Finish>
__device__ __forceinline__ void run(const Product& p, unsigned char* raw, const Finish& finish) {
  const Shared shared(raw);
  if (shared.base % 1024 != 0) __trap();  // as the swizzle needs it; there is no room to round it up
  const std::uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) shared.init();
  hopper::cluster_sync();
  if (threadIdx.x < 128) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce<kFp8 ? kLine : kLine / 2, kStep>(p, shared, rank);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1;
    float d[128];
    unsigned use = 0;
    for_tiles(p, rank, [&](const Place& place) { finish(shared, place, warpgroup, d, use); });
    if (threadIdx.x % 128 == 0) hopper::store_wait_read();
  }
  // Neither block may go while the other still fills its stages or frees them.
  hopper::cluster_sync();
}

inline bool is_aligned(const ConstMatrixView& m) {
  return is_box_aligned(m.data) && m.stride * static_cast<std::int64_t>(size_of(m.dtype)) % 16 == 0;
}

/// A matrix in boxes of `rows` rows and 128 bytes.
inline CUtensorMap map_of(const ConstMatrixView& m, std::int64_t rows) {
  return make_tensor_map(m.data, m.dtype, m.cols, {m.rows, m.stride}, {1, m.rows * m.stride}, rows, 1);
}

/// From a cluster's rows on; where tiles come in several waves, from 384 rows: two products of 3,584 x 18,944 take 0.11
/// and 0.14 ms at 256 and 257 rows, one kernel for both 0.13 and 0.22, and from 400 rows on it takes no longer than
/// they (H200).
inline bool is_worth_own(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t col_tiles) {
  constexpr std::int64_t kLeastRows = kCluster * kTileRows;
  constexpr std::int64_t kSeveralWaves = 384;
  constexpr std::int64_t kMostRows = 1LL << 30U;
  if (context.cuda == nullptr || context.cuda->capability != 90 || context.cuda->smem_bytes < kShared) return false;
  if (rows < kLeastRows || rows >= kMostRows || in == 0 || in % 8 != 0) return false;
  return rows >= kSeveralWaves || ceil_div(rows, kLeastRows) * col_tiles <= context.cuda->sms / kCluster;
}

/// `cols`: of the tiles; weights[n] is what half n of a tile's columns comes from. Rows of x that stay in the
/// second-level cache while the weights pass once take 30 % of it (best of 10, 30, 60, 90 on an H200).
inline Product make_product(const Context& context, const ConstMatrixView& x, const ConstMatrixView& first,
                            const ConstMatrixView& second, std::int64_t col_tiles, const float* x_scales) {
  const std::int64_t row_bytes = x.cols * static_cast<std::int64_t>(size_of(x.dtype));
  const auto cached = static_cast<std::int64_t>(context.cuda->l2_bytes) * 3 / 10;
  return {.x = map_of(x, kTileRows),
          .weights = {map_of(first, kHalfCols), map_of(second, kHalfCols)},
          .rows = static_cast<int>(x.rows),
          .row_tiles = static_cast<int>(ceil_div(x.rows, kCluster * kTileRows)),
          .col_tiles = static_cast<int>(col_tiles),
          .row_group = static_cast<int>(std::max<std::int64_t>(1, cached / (kCluster * kTileRows * row_bytes))),
          .steps = static_cast<int>(ceil_div(row_bytes, kLine)),
          .x_scales = x_scales};
}

inline unsigned blocks_of(const Context& context, const Product& p) {
  return static_cast<unsigned>(std::min(context.cuda->sms / kCluster, p.row_tiles * p.col_tiles) * kCluster);
}

}  // namespace purekv::cuda::products
