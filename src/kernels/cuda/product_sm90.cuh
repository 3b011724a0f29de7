#pragma once

#include <algorithm>
#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

/// The main loop of Hopper's own products, x [rows, in] times weights [out, in], for kernels that finish what they
/// multiply before it is stored. Persistent clusters of two blocks, which have the same 256 rows and neighbouring
/// columns; a block has one producer thread and two consumer warpgroups. A warpgroup has two halves of 64 rows: while
/// the products of one half's last or first step run, it stores the other one. A tile takes 2 * 256 * kCols * in FLOPs;
/// a step of it 128 bytes along k of 256 rows and of kCols weight rows, half of the rows through the other block.
///
/// What bounds it is power: what is moved for a FLOP, from the second-level cache to shared memory and from there to
/// the tensor cores, sets the clock. So tiles are as large as registers allow, and stages of operands take all of the
/// shared memory: results leave from registers.
///
/// Tried without gain (H200, 32k x 3,584 x 18,944; docs/benchmarks.md has clocks and cycles): tiles of 128 x 256 whose
/// blocks share weights (2 %), three stages and results through shared memory (5 % more cycles), steps of 64 bytes (3
/// %), a second warpgroup that runs some steps behind (fp8 in tiles of 128 x 256 alone gained). In tiles of 128 x 256,
/// 11k rows: warpgroups that take tiles in turn (5 to 9 % slower), no multicast (3 %).
namespace purekv::cuda::products {

inline constexpr int kCluster = 2;
inline constexpr int kConsumers = 2;  ///< warpgroups
inline constexpr int kThreads = 128 * (kConsumers + 1);
inline constexpr int kHalves = 2;  ///< of a warpgroup's rows
inline constexpr int kHalfRows = 64;
inline constexpr int kWarpgroupRows = kHalves * kHalfRows;
inline constexpr int kTileRows = kConsumers * kWarpgroupRows;
inline constexpr int kRowGroup = 16;  ///< row tiles that share a sweep over the weights
inline constexpr int kStages = 4;
inline constexpr int kLine = 128;  ///< bytes of k in a step
inline constexpr int kInstructions = kLine / 32;
inline constexpr int kOperand = kWarpgroupRows * kLine;  ///< bytes of a warpgroup's rows in a stage
/// Registers: 128 x 24 + 256 x 240, of 168 x 384 at the start.
inline constexpr int kProducerRegisters = 24;
inline constexpr int kConsumerRegisters = 240;

/// The shape of a kernel's tiles: weight rows of a block, and floats that a warpgroup keeps for them.
template <int kColumns, int kFloats>
struct Tile {
  static constexpr int kCols = kColumns;
  static constexpr int kStageBytes = kConsumers * kOperand + kCols * kLine;
  static constexpr int kTermCount = kFloats;
  static constexpr int kTerms = kStages * kStageBytes;
  static constexpr int kBarriers = kTerms + kConsumers * kTermCount * static_cast<int>(sizeof(float));
  static constexpr int kShared = kBarriers + 2 * kStages * 8;
  /// Of a half: thread t has what wgmma.cuh says.
  using Sums = float[kCols / 2];
};

struct Product {
  CUtensorMap x;
  int rows;
  int row_tiles, col_tiles;  ///< of a cluster
  int first_col;             ///< tiles of a cluster before these
  int steps;                 ///< of a tile, along k
  const float* x_scales;     ///< [rows] fp8
};

/// Place of use n in the ring.
struct Turn {
  int stage;
  std::uint32_t parity;
  __device__ explicit Turn(unsigned n) : stage(n % kStages), parity(n / kStages & 1U) {}
};

template <class T>
struct Shared {
  unsigned char* raw;
  std::uint32_t base;
  __device__ explicit Shared(unsigned char* raw) : raw(raw), base(hopper::shared_address(raw)) {}
  __device__ std::uint32_t stage(int n) const { return base + n * T::kStageBytes; }
  __device__ float* terms(int warpgroup) const {
    return reinterpret_cast<float*>(raw + T::kTerms) + warpgroup * T::kTermCount;
  }
  __device__ std::uint32_t full(int stage) const { return base + T::kBarriers + stage * 8; }
  __device__ std::uint32_t empty(int stage) const { return base + T::kBarriers + (kStages + stage) * 8; }

  /// One thread. A stage is empty once every consumer warp of the cluster has left it: each block fetches for both.
  __device__ void init() const {
    for (int n = 0; n < kStages; ++n) {
      hopper::barrier_init(full(n), 1);
      hopper::barrier_init(empty(n), kCluster * kConsumers * 4);
    }
    hopper::barrier_init_fence();
  }
};

/// A block's tile: its first row, and its number along the columns. The n-th of the clusters' tiles, in an order that
/// sweeps the columns once for each group of row tiles.
struct Place {
  int row, tile_col;
  __device__ Place(const Product& p, int n, std::uint32_t rank) {
    const int of_group = kRowGroup * p.col_tiles;
    const int first = n / of_group * kRowGroup;
    const int size = min(p.row_tiles - first, kRowGroup);
    const int in_group = n % of_group;
    row = (first + in_group % size) * kTileRows;
    tile_col = (p.first_col + in_group / size) * kCluster + static_cast<int>(rank);
  }
};

/// One thread. Block n of a cluster fetches the rows of warpgroup n for both. Weights says where a tile's columns come
/// from: kBoxes boxes of as many weight rows, map(box) and row(tile_col, box).
template <class T, int kValues, class Weights>
__device__ void produce(const Product& p, const Weights& weights, const Shared<T>& shared, std::uint32_t rank) {
  constexpr std::uint16_t kBoth = 3;
  constexpr int kBoxBytes = T::kCols / Weights::kBoxes * kLine;
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  unsigned use = 0;
  for (int n = static_cast<int>(blockIdx.x) / kCluster; n < p.row_tiles * p.col_tiles; n += clusters) {
    const Place place(p, n, rank);
    const int row = place.row + static_cast<int>(rank) * kWarpgroupRows;
    for (int step = 0; step < p.steps; ++step, ++use) {
      const Turn turn(use);
      hopper::barrier_wait(shared.empty(turn.stage), turn.parity ^ 1U);
      const std::uint32_t full = shared.full(turn.stage);
      const std::uint32_t to = shared.stage(turn.stage);
      hopper::barrier_expect(full, T::kStageBytes);
      hopper::load_box_to(kBoth, to + rank * kOperand, &p.x, full, step * kValues, row, 0);
      for (int box = 0; box < Weights::kBoxes; ++box)
        hopper::load_box(to + kConsumers * kOperand + box * kBoxBytes, weights.map(box), full, step * kValues,
                         weights.row(place.tile_col, box), 0);
    }
  }
}

/// A consumer warpgroup's way through the ring.
template <class T, bool kFp8>
class Consumer {
 public:
  using Sums = typename T::Sums;
  __device__ Consumer(const Shared<T>& shared, int warpgroup) : shared_(shared), warpgroup_(warpgroup) {}

  /// The products of a tile's first step, half by half.
  __device__ __forceinline__ void begin_first(Sums (&d)[kHalves]) {
    hopper::barrier_wait(shared_.full(Turn(use_).stage), Turn(use_).parity);
    multiply<0>(d, 0);
  }
  __device__ __forceinline__ void begin_second(Sums (&d)[kHalves]) {
    multiply<1>(d, 0);
    ++use_;
  }

  /// Steps [first, end) of both halves; first > 0.
  __device__ __forceinline__ void advance(Sums (&d)[kHalves], int first, int end) {
    for (int step = first; step < end; ++step, ++use_) {
      hopper::barrier_wait(shared_.full(Turn(use_).stage), Turn(use_).parity);
      multiply<0>(d, step);
      multiply<1>(d, step);
      hopper::wgmma_wait<2>();
      release(use_ - 1);
    }
  }

  /// Until the first half is done; the second one's last products may still run.
  __device__ __forceinline__ void end_first(Sums (&d)[kHalves]) {
    hopper::wgmma_wait<1>();
    hopper::pin(d[0]);
  }

  /// Until the second half is done, whether or not the next tile's first one has begun.
  __device__ __forceinline__ void end_second(Sums (&d)[kHalves], bool more) {
    if (more)
      hopper::wgmma_wait<1>();
    else
      hopper::wgmma_wait<0>();
    hopper::pin(d[1]);
    release(use_ - 1);
  }

 private:
  template <int kHalf>
  __device__ __forceinline__ void multiply(Sums (&d)[kHalves], int step) {
    const std::uint32_t at = shared_.stage(Turn(use_).stage);
    const std::uint64_t a = hopper::swizzled_operand(at + warpgroup_ * kOperand + kHalf * kHalfRows * kLine, 16);
    const std::uint64_t b = hopper::swizzled_operand(at + kConsumers * kOperand, 16);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInstructions; ++i)  // 32 bytes along k are two address units
      hopper::multiply_wide<kFp8>(d[kHalf], a + 2 * i, b + 2 * i, step > 0 || i > 0 ? 1 : 0);
    hopper::wgmma_commit();
  }

  /// Lanes 0 and 1 tell both blocks that this warp has left the stage of a use.
  __device__ __forceinline__ void release(unsigned use) const {
    const unsigned lane = threadIdx.x % 32;
    if (lane < kCluster) hopper::barrier_arrive_at(shared_.empty(Turn(use).stage), lane);
  }

  const Shared<T>& shared_;
  int warpgroup_;
  unsigned use_ = 0;  ///< of the ring
};

/// The first of this thread's rows in a half of a warpgroup's; the other is 8 below.
__device__ __forceinline__ int first_row(const Place& place, int warpgroup, int half) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  return place.row + warpgroup * kWarpgroupRows + half * kHalfRows + thread / 32 * 16 + thread % 32 / 4;
}

/// Scales of this thread's two rows in a half of a warpgroup's.
struct RowScales {
  float of[2] = {1, 1};
};
__device__ __forceinline__ RowScales read_row_scales(const Product& p, int row) {
  RowScales scales;
  for (int r = 0; r < 2; ++r)
    if (row + 8 * r < p.rows) scales.of[r] = __ldg(p.x_scales + row + 8 * r);
  return scales;
}

/// Lets a warpgroup write what all of it reads: once all have read what lay there for the tile before, and before
/// anyone reads what lies there now.
template <class Write>
__device__ __forceinline__ void share(int warpgroup, const Write& write) {
  hopper::named_sync(1 + warpgroup, 128);
  write();
  hopper::named_sync(1 + warpgroup, 128);
}

/// Four groups of columns of a row, of which each lane of a quad has a word (a pair of columns in bf16) in each: leaves
/// lane n with all of group n, in the order of lanes.
__device__ __forceinline__ uint4 gather_group(std::uint32_t (&pairs)[4]) {
  const auto swap = [&](int a, int b, int lanes) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(lanes)) != 0;
    const std::uint32_t other = __shfl_xor_sync(~0U, upper ? pairs[a] : pairs[b], lanes);
    (upper ? pairs[a] : pairs[b]) = other;
  };
  swap(0, 1, 1);
  swap(2, 3, 1);
  swap(0, 2, 2);
  swap(1, 3, 2);
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// Steps before a tile's end at which a kernel reads what it needs to store it: the way to memory takes about one.
inline constexpr int kAhead = 2;

/// The kernel's body but for what becomes of a tile. Store has: Store(params, shared, warpgroup); read(place, half),
/// what a half needs beside its products; store(place, half, sums).
template <class T, bool kFp8, class Store, class Weights, class Params>
__device__ __forceinline__ void run(const Params& params, const Weights& weights, unsigned char* raw) {
  const Product& p = params.product;
  const Shared<T> shared(raw);
  if (shared.base % 1024 != 0) __trap();  // as the swizzle needs it; there is no room to round it up
  const std::uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) shared.init();
  hopper::cluster_sync();
  if (threadIdx.x < 128) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0) produce<T, kFp8 ? kLine : kLine / 2>(p, weights, shared, rank);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    const int warpgroup = hopper::warpgroup() - 1;
    typename T::Sums d[kHalves];
    Consumer<T, kFp8> consumer(shared, warpgroup);
    Store store(params, shared, warpgroup);
    const int near_end = max(1, p.steps - kAhead);
    int n = static_cast<int>(blockIdx.x) / kCluster;
    consumer.begin_first(d);
    consumer.begin_second(d);
    for (bool more = true; more;) {
      const Place place(p, n, rank);
      consumer.advance(d, 1, near_end);
      store.read(place, 0);
      consumer.advance(d, near_end, p.steps);
      consumer.end_first(d);
      store.store(place, 0, d[0]);
      store.read(place, 1);
      n += static_cast<int>(gridDim.x) / kCluster;
      more = n < p.row_tiles * p.col_tiles;
      if (more) consumer.begin_first(d);
      consumer.end_second(d, more);
      store.store(place, 1, d[1]);
      if (more) consumer.begin_second(d);
    }
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

inline int most_clusters(const Context& context) { return context.cuda->sms / kCluster; }

/// From a cluster's rows on; where tiles come in several waves, from 384 rows. Measured on the gated kernel in an
/// earlier form, tiles of 128 rows x 128 columns of out (H200): two products of 3,584 x 18,944 take 0.11 and 0.14 ms at
/// 256 and 257 rows, one kernel for both 0.13 and 0.22, and from 400 rows on it takes no longer than they.
template <class T>
bool is_worth_own(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t col_tiles) {
  constexpr std::int64_t kSeveralWaves = 384;
  constexpr std::int64_t kMostRows = 1LL << 30U;
  if (context.cuda == nullptr || context.cuda->capability != 90 || context.cuda->smem_bytes < T::kShared) return false;
  if (rows < kTileRows || rows >= kMostRows || in == 0 || in % 8 != 0) return false;
  return rows >= kSeveralWaves || ceil_div(rows, kTileRows) * col_tiles <= most_clusters(context);
}

inline Product make_product(const ConstMatrixView& x, std::int64_t col_tiles, const float* x_scales) {
  const std::int64_t row_bytes = x.cols * static_cast<std::int64_t>(size_of(x.dtype));
  return {.x = map_of(x, kWarpgroupRows),
          .rows = static_cast<int>(x.rows),
          .row_tiles = static_cast<int>(ceil_div(x.rows, kTileRows)),
          .col_tiles = static_cast<int>(col_tiles),
          .first_col = 0,
          .steps = static_cast<int>(ceil_div(row_bytes, kLine)),
          .x_scales = x_scales};
}

/// Lets a kernel take its shared memory, once, and launches it.
template <class T, auto kKernel, class Params>
void launch(const Context& context, const Params& p, const char* what) {
  static const bool allowed = (allow_shared(kKernel, T::kShared), true);
  static_cast<void>(allowed);
  const int blocks = std::min(most_clusters(context), p.product.row_tiles * p.product.col_tiles) * kCluster;
  kKernel<<<static_cast<unsigned>(blocks), kThreads, T::kShared, stream_of(context)>>>(p);
  check_launch(what);
}

}  // namespace purekv::cuda::products
