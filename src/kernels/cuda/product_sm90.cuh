#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

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
inline constexpr int kWarpgroupRows = kTileRows / kConsumers;
inline constexpr int kStages = 4;
inline constexpr int kRowGroup = 16;  ///< row tiles of a cluster that share a sweep over the weights
inline constexpr int kMostRun = 4;    ///< of them, that a cluster makes one after the other
inline constexpr int kLag = 3;        ///< stages that the second warpgroup is behind
inline constexpr int kLine = 128;     ///< bytes of k in a stage
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
  int most_run, runs;        ///< row tiles of a run at most; all runs
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

/// Tiles with the same columns that a cluster makes one after the other, n-th of the runs in an order that sweeps the
/// columns once for each group of row tiles.
struct Run {
  int first, count;  ///< of the cluster's row tiles
  int tile_col;
  __device__ Run(const Product& p, int n) {
    const int of_group = parts(p, kRowGroup) * p.col_tiles;
    const int group = n / of_group;
    const int size = min(p.row_tiles - group * kRowGroup, kRowGroup);
    const int in_group = n - group * of_group;
    const int part = in_group % parts(p, size);
    tile_col = in_group / parts(p, size);
    first = part * size / parts(p, size);
    count = (part + 1) * size / parts(p, size) - first;
    first += group * kRowGroup;
  }
  __host__ __device__ static int parts(const Product& p, int row_tiles) {
    return (row_tiles + p.most_run - 1) / p.most_run;
  }
};

/// A block's tile.
struct Place {
  int row, tile_col;
  __device__ Place(const Run& run, int n, std::uint32_t rank)
      : row(((run.first + n) * kCluster + static_cast<int>(rank)) * kTileRows), tile_col(run.tile_col) {}
};

template <class Work>
__device__ void for_runs(const Product& p, const Work& work) {
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  for (int n = static_cast<int>(blockIdx.x) / kCluster; n < p.runs; n += clusters) work(Run(p, n));
}

/// One thread. `kStep`: weight rows from one tile to the next; 256 where both halves come from one weight.
///
/// In a run the weights' stages follow one another round and round k. The second warpgroup joins kLag stages late and
/// stays as long behind: it begins and ends its tiles, whose sum goes round k from there, while the first is in the
/// middle of its own. So one multiplies while the other stores, of the same stages.
template <int kValues, int kStep>
__device__ void produce(const Product& p, const Shared& shared, std::uint32_t rank) {
  const CUtensorMap* weight = &p.weights[rank];
  const int half = kStep == 2 * kHalfCols ? static_cast<int>(rank) * kHalfCols : 0;
  unsigned use = 0;
  for_runs(p, [&](const Run& run) {
    const int end = run.count * p.steps;
    int row[kConsumers];
    int step[kConsumers] = {0, 0};  // of each warpgroup's tile
    for (int w = 0; w < kConsumers; ++w) row[w] = Place(run, 0, rank).row + w * kWarpgroupRows;
    int k = 0;
    for (int n = 0; n < end + kLag; ++n, ++use) {
      const Turn turn(use);
      hopper::barrier_wait(shared.empty(turn.stage), turn.parity ^ 1U);
      const std::uint32_t full = shared.full(turn.stage);
      const std::uint32_t to = shared.stage(turn.stage);
      const int takes[kConsumers] = {n < end ? 1 : 0, n >= kLag ? 1 : 0};  // a short run has stages that neither does
      hopper::barrier_expect(full, (takes[0] + takes[1]) * (kOperand / 2) + 2 * kOperand);
#pragma unroll
      for (int w = 0; w < kConsumers; ++w) {
        if (takes[w] == 0) continue;
        hopper::load_box(to + w * (kOperand / 2), &p.x, full, k * kValues, row[w], 0);
        if (++step[w] == p.steps) {
          step[w] = 0;
          row[w] += kCluster * kTileRows;
        }
      }
      hopper::load_box_to(3, to + (1 + rank) * kOperand, weight, full, k * kValues, run.tile_col * kStep + half, 0);
      if (++k == p.steps) k = 0;
    }
  });
}

/// Lanes 0 and 1 tell both blocks that this warp has left the stage.
__device__ __forceinline__ void release(const Shared& shared, int stage) {
  const unsigned lane = threadIdx.x % 32;
  if (lane < kCluster) hopper::barrier_arrive_at(shared.empty(stage), lane);
}

/// A consumer warpgroup's way through the ring.
struct Consumer {
  const Shared& shared;
  int warpgroup;
  int steps;         ///< of a tile
  int skips = 0;     ///< stages behind the tile's that only the other warpgroup takes
  unsigned use = 0;  ///< of the ring

  __device__ __forceinline__ void skip(int stages) {
    for (int n = 0; n < stages; ++n, ++use) {
      hopper::barrier_wait(shared.full(Turn(use).stage), Turn(use).parity);
      release(shared, Turn(use).stage);
    }
  }

  /// d[64 rows][256 columns] of a tile: adds steps [first, end).
  template <bool kFp8>
  __device__ __forceinline__ void multiply(float (&d)[128], int first, int end) {
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
    if (end == steps) skip(skips);  // now: stages must not wait until the tile is stored
  }
};

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

/// The kernel's body but for what becomes of a tile: finish(place, consumer, d) multiplies and stores.
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
    float d[128];
    Consumer consumer{shared, static_cast<int>(threadIdx.x) / 128 - 1, p.steps};
    for_runs(p, [&](const Run& run) {
      if (consumer.warpgroup > 0) consumer.skip(kLag);
      for (int n = 0; n < run.count; ++n) {
        if (consumer.warpgroup == 0) consumer.skips = n + 1 == run.count ? kLag : 0;
        finish(Place(run, n, rank), consumer, d);
      }
    });
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

/// Runs of a launch, with runs of at most `most_run` row tiles.
inline int count_runs(Product p, int most_run) {
  p.most_run = most_run;
  const int groups = p.row_tiles / kRowGroup;
  const int rest = p.row_tiles - groups * kRowGroup;
  return (groups * Run::parts(p, kRowGroup) + Run::parts(p, rest)) * p.col_tiles;
}

/// Picks the runs' length: long ones lose little at their ends, where one warpgroup multiplies alone, short ones share
/// out evenly.
inline void choose_runs(Product& p, int clusters) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (int length = 1; length <= kMostRun; ++length) {
    const std::int64_t of_cluster = ceil_div(count_runs(p, length), clusters);
    const std::int64_t steps = of_cluster * (static_cast<std::int64_t>(length) * p.steps + kLag);
    if (steps >= least) continue;
    least = steps;
    p.most_run = length;
  }
  p.runs = count_runs(p, p.most_run);
}

inline int most_clusters(const Context& context) { return context.cuda->sms / kCluster; }

/// weights: what the halves of a tile's columns come from. Groups of 16 row tiles of a cluster and runs of up to 4 were
/// the best of 4 to 46 and 1 to 16 at 1,280 and 3,584 values of k, bf16 and fp8 (H200): what is used at one time, about
/// 4 row tiles and 16 of the columns, stays in the second-level cache.
inline Product make_product(const Context& context, const ConstMatrixView& x, const ConstMatrixView& first,
                            const ConstMatrixView& second, std::int64_t col_tiles, const float* x_scales) {
  const std::int64_t row_bytes = x.cols * static_cast<std::int64_t>(size_of(x.dtype));
  Product p{.x = map_of(x, kWarpgroupRows),
            .weights = {map_of(first, kHalfCols), map_of(second, kHalfCols)},
            .rows = static_cast<int>(x.rows),
            .row_tiles = static_cast<int>(ceil_div(x.rows, kCluster * kTileRows)),
            .col_tiles = static_cast<int>(col_tiles),
            .most_run = 1,
            .runs = 0,
            .steps = static_cast<int>(ceil_div(row_bytes, kLine)),
            .x_scales = x_scales};
  choose_runs(p, most_clusters(context));
  return p;
}

inline unsigned blocks_of(const Context& context, const Product& p) {
  return static_cast<unsigned>(std::min(most_clusters(context), p.runs) * kCluster);
}

}  // namespace purekv::cuda::products
