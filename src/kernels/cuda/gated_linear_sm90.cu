#include "kernels/cuda/gated_linear_sm90.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "base/fail.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

/// The gate and up products of a SwiGLU MLP with its nonlinearity, so that neither product is ever stored: two
/// separate products write 2 * ffn values a row and SwiGLU reads them again, 4 % of a prefill's time.
namespace purekv::cuda {
namespace {

constexpr int kTileRows = 128;  ///< of x, a block; the two blocks of a cluster take neighbouring ones
constexpr int kTileCols = 128;  ///< of out: as many rows of the gate's and of the up weight
constexpr int kCluster = 2;
constexpr int kConsumers = 2;  ///< warpgroups, 64 rows each
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kStages = 4;
constexpr int kLine = 128;  ///< bytes of k in a stage
constexpr int kInstructions = kLine / 32;
constexpr int kOperand = 128 * kLine;      ///< x's, the gate's or the up weight's share of a stage
constexpr int kStageBytes = 3 * kOperand;  ///< x, gate, up
constexpr int kChunkCols = 64;             ///< of out, 128 bytes
constexpr int kChunk = 64 * kLine;         ///< 64 rows of them
constexpr int kOut = kStages * kStageBytes;
constexpr int kTerms = kOut + kConsumers * (kTileCols / kChunkCols) * kChunk;
constexpr int kTermBytes = 2 * kTileCols * static_cast<int>(sizeof(float));  ///< of a warpgroup
constexpr int kBarriers = kTerms + kConsumers * kTermBytes;
constexpr int kShared = kBarriers + 2 * kStages * 8;

struct GatedKernel {
  CUtensorMap x, gate, up, out;
  int rows, cols;
  int row_tiles, col_tiles;            ///< of a cluster: 256 rows, 128 columns
  int row_group;                       ///< row tiles that share a sweep over the weights
  int steps;                           ///< stages along k
  const float *gate_terms, *up_terms;  ///< [cols] scales of fp8 weights, or biases; null: none
  const float* x_scales;               ///< [rows] fp8
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
  __device__ std::uint32_t out(int warpgroup, int chunk) const {
    return base + kOut + (warpgroup * (kTileCols / kChunkCols) + chunk) * kChunk;
  }
  /// [2][128] of the gate's and of the up columns
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
  int row, col;
  __device__ Place(const GatedKernel& p, int n, std::uint32_t rank) {
    const int of_group = p.row_group * p.col_tiles;
    const int first = n / of_group * p.row_group;
    const int size = min(p.row_tiles - first, p.row_group);
    const int in_group = n % of_group;
    row = ((first + in_group % size) * kCluster + static_cast<int>(rank)) * kTileRows;
    col = in_group / size * kTileCols;
  }
};

template <class Work>
__device__ void for_tiles(const GatedKernel& p, std::uint32_t rank, const Work& work) {
  const int clusters = static_cast<int>(gridDim.x) / kCluster;
  for (int n = static_cast<int>(blockIdx.x) / kCluster; n < p.row_tiles * p.col_tiles; n += clusters)
    work(Place(p, n, rank));
}

/// One thread. Block 0 of a cluster fetches the gate's rows for both, block 1 the up weight's.
template <int kValues>
__device__ void produce(const GatedKernel& p, const Shared& shared, std::uint32_t rank) {
  const CUtensorMap* weight = rank == 0 ? &p.gate : &p.up;
  unsigned use = 0;
  for_tiles(p, rank, [&](const Place& place) {
    for (int step = 0; step < p.steps; ++step, ++use) {
      const Turn turn(use);
      hopper::barrier_wait(shared.empty(turn.stage), turn.parity ^ 1U);
      const std::uint32_t full = shared.full(turn.stage);
      const std::uint32_t to = shared.stage(turn.stage);
      hopper::barrier_expect(full, kStageBytes);
      hopper::load_box(to, &p.x, full, step * kValues, place.row, 0);
      hopper::load_box_to(3, to + (1 + rank) * kOperand, weight, full, step * kValues, place.col, 0);
    }
  });
}

/// Lanes 0 and 1 tell both blocks that this warp has left the stage.
__device__ __forceinline__ void release(const Shared& shared, int stage) {
  const unsigned lane = threadIdx.x % 32;
  if (lane < kCluster) hopper::barrier_arrive_at(shared.empty(stage), lane);
}

/// d[64 rows][128 gate, 128 up columns] of a tile.
template <bool kFp8>
__device__ __forceinline__ void multiply(float (&d)[128], const GatedKernel& p, const Shared& shared, int warpgroup,
                                         unsigned& use) {
  for (int step = 0; step < p.steps; ++step, ++use) {
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
    if (step > 0) release(shared, Turn(use - 1).stage);
  }
  hopper::wgmma_wait<0>();
  hopper::pin(d);
  release(shared, Turn(use - 1).stage);
}

/// A scale or bias of the gate's and of the up weight: this thread's column of the tile. Read before the products,
/// whose time hides the way to memory.
__device__ __forceinline__ float2 read_terms(const GatedKernel& p, const Place& place) {
  const int col = place.col + static_cast<int>(threadIdx.x) % 128;
  if (p.gate_terms == nullptr || col >= p.cols) return {0, 0};
  return {__ldg(p.gate_terms + col), __ldg(p.up_terms + col)};
}

/// silu(gate) * up by sigmoid(x) = (1 + tanh(x / 2)) / 2: one approximate instruction, at most 2^-12 off (absolute). An
/// exponential and a reciprocal took 1 % of the kernel more.
__device__ __forceinline__ float gated(float gate, float up) {
  float tangent;
  asm("tanh.approx.f32 %0, %1;" : "=f"(tangent) : "f"(0.5F * gate));
  return gate * fmaf(0.5F, tangent, 0.5F) * up;
}

/// What an accumulator stands for.
template <bool kFp8>
__device__ __forceinline__ float finished(float sum, float row_scale, float term) {
  return kFp8 ? sum * row_scale * term : sum + term;
}

/// silu(gate) * up of a tile, through shared memory to the copy engine. stmatrix wants two groups of eight columns and
/// both halves of 16 rows at once.
template <bool kFp8>
__device__ __forceinline__ void store(const float (&d)[128], const GatedKernel& p, const Shared& shared,
                                      const Place& place, int warpgroup, float2 my_terms) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  const int row = place.row + warpgroup * 64 + thread / 32 * 16 + lane / 4;
  float row_scale[2] = {1, 1};
  if constexpr (kFp8)
    for (int r = 0; r < 2; ++r)
      if (row + 8 * r < p.rows) row_scale[r] = __ldg(p.x_scales + row + 8 * r);
  float* terms = shared.terms(warpgroup);
  terms[thread] = my_terms.x;
  terms[kTileCols + thread] = my_terms.y;
  if (thread == 0) hopper::store_wait_read();
  hopper::named_sync(1 + warpgroup, 128);
  const int to_row = thread / 32 * 16 + lane % 16;
  const std::uint32_t line = shared.out(warpgroup, 0) + to_row * kLine;
#pragma unroll
  for (int two = 0; two < kTileCols / 16; ++two) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * two + i;
      const int col = 8 * j + 2 * (lane % 4);
      const float2 g = *reinterpret_cast<const float2*>(terms + col);
      const float2 u = *reinterpret_cast<const float2*>(terms + kTileCols + col);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* x = d + 4 * j + 2 * r;
        const float* y = x + 64;
        words[2 * i + r] =
            pack_bf16(gated(finished<kFp8>(x[0], row_scale[r], g.x), finished<kFp8>(y[0], row_scale[r], u.x)),
                      gated(finished<kFp8>(x[1], row_scale[r], g.y), finished<kFp8>(y[1], row_scale[r], u.y)));
      }
    }
    const int chunk = two / 4;
    const int sixteen = (two % 4 * 2 + lane / 16) ^ (to_row % 8);  // the swizzle, in units of 16 bytes
    hopper::store_matrices(line + chunk * kChunk + sixteen * 16, words);
  }
  hopper::proxy_fence();
  hopper::named_sync(1 + warpgroup, 128);
  if (thread == 0) {
    for (int chunk = 0; chunk < kTileCols / kChunkCols; ++chunk)
      hopper::store_box(&p.out, shared.out(warpgroup, chunk), place.col + chunk * kChunkCols,
                        place.row + warpgroup * 64, 0);
    hopper::store_commit();
  }
}

/// Persistent clusters of two blocks; a block has one producer thread and two consumer warpgroups. A tile takes
/// 2 * 128 * 256 * in FLOPs; a step of it (128 bytes along k) 48 KiB of operands, of which a block fetches 32 itself.
/// Writes 2 bytes an element of out. Shared memory: 4 stages of 48 KiB, 32 KiB of results, 2 KiB of biases or scales.
/// Measured on one H200 at its power limit, against the two products alone on cuBLASLt: 10,955 x 3,584 x 18,944 bf16
/// 4.58 ms (4.55), 24,576 x 1,280 x 3,424 with biases 0.68 (0.69), 14,575 x 3,584 x 18,944 fp8 3.19 (3.16). Tried and
/// not faster: warpgroups that take tiles of 128 x 64 columns in turn (5 to 9 % slower), one that trails the other by 1
/// to 3 stages, no multicast (3 % slower).
template <bool kFp8>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    gated_kernel(const __grid_constant__ GatedKernel p) {
  extern __shared__ __align__(1024) unsigned char raw[];  // as the swizzle needs it
  const Shared shared(raw);
  if (shared.base % 1024 != 0) __trap();  // there is no room to round it up
  const std::uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) shared.init();
  hopper::cluster_sync();
  // 128 x 40 + 256 x 232 registers, of 168 x 384 at the start.
  if (threadIdx.x < 128) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0) produce<kFp8 ? kLine : kLine / 2>(p, shared, rank);
  } else {
    hopper::take_registers<232>();
    const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1;
    float d[128];
    unsigned use = 0;
    for_tiles(p, rank, [&](const Place& place) {
      const float2 terms = read_terms(p, place);
      multiply<kFp8>(d, p, shared, warpgroup, use);
      store<kFp8>(d, p, shared, place, warpgroup, terms);
    });
    if (threadIdx.x % 128 == 0) hopper::store_wait_read();
  }
  // Neither block may go while the other still fills its stages or frees them.
  hopper::cluster_sync();
}

bool is_aligned(const ConstMatrixView& m) {
  return is_box_aligned(m.data) && m.stride * static_cast<std::int64_t>(size_of(m.dtype)) % 16 == 0;
}

/// Rows of x that stay in the second-level cache while the weights pass once take 30 % of it.
int row_group(const Context& context, const ConstMatrixView& x) {
  const std::int64_t tile_bytes = kCluster * kTileRows * x.cols * static_cast<std::int64_t>(size_of(x.dtype));
  return static_cast<int>(
      std::max<std::int64_t>(1, static_cast<std::int64_t>(context.cuda->l2_bytes) * 3 / 10 / tile_bytes));
}

template <bool kFp8>
void launch(const Context& context, const GatedKernel& p) {
  static const bool allowed = (allow_shared(gated_kernel<kFp8>, kShared), true);
  static_cast<void>(allowed);
  const int blocks = std::min(context.cuda->sms / kCluster, p.row_tiles * p.col_tiles) * kCluster;
  gated_kernel<kFp8><<<static_cast<unsigned>(blocks), kThreads, kShared, stream_of(context)>>>(p);
  check_launch("gated_linear_sm90");
}

}  // namespace

/// From a cluster's rows on; where tiles come in several waves, from 384 rows: two products of 3,584 x 18,944 take 0.11
/// and 0.14 ms at 256 and 257 rows, this kernel 0.13 and 0.22, and from 400 rows on it takes no longer than they
/// (H200).
bool gated_in_one(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t out) {
  constexpr std::int64_t kLeastRows = kCluster * kTileRows;
  constexpr std::int64_t kSeveralWaves = 384;
  constexpr std::int64_t kMostRows = 1LL << 30U;
  if (context.cuda == nullptr || context.cuda->capability != 90 || context.cuda->smem_bytes < kShared) return false;
  if (rows < kLeastRows || rows >= kMostRows || in == 0 || in % 8 != 0 || out % 8 != 0) return false;
  const std::int64_t tiles = ceil_div(rows, kCluster * kTileRows) * ceil_div(out, kTileCols);
  return rows >= kSeveralWaves || tiles <= context.cuda->sms / kCluster;
}

bool gated_sm90_takes(const Context& context, const GatedProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& gate = product.gate.weight;
  const ConstMatrixView& up = product.up.weight;
  if (!gated_in_one(context, x.rows, x.cols, gate.rows)) return false;
  if (x.dtype != gate.dtype || x.dtype != up.dtype || (x.dtype != DType::kBF16 && x.dtype != DType::kFp8)) return false;
  if (x.dtype == DType::kFp8 && (product.gate.bias != nullptr || product.up.bias != nullptr)) return false;
  if ((product.gate.bias == nullptr) != (product.up.bias == nullptr)) return false;
  return product.out.dtype == DType::kBF16 && is_aligned(x) && is_aligned(gate) && is_aligned(up) &&
         is_aligned(product.out);
}

void gated_sm90(const Context& context, const GatedProduct& product) {
  const ConstMatrixView& x = product.x;
  const ConstMatrixView& gate = product.gate.weight;
  const ConstMatrixView& up = product.up.weight;
  const MatrixView& out = product.out;
  const bool is_fp8 = x.dtype == DType::kFp8;
  PUREKV_ASSERT(x.cols == gate.cols && x.cols == up.cols && gate.rows == out.cols && up.rows == out.cols);
  PUREKV_ASSERT(!is_fp8 ||
                (product.x_scales != nullptr && product.gate.scales != nullptr && product.up.scales != nullptr));
  const auto map = [](const ConstMatrixView& m, std::int64_t box) {
    return make_tensor_map(m.data, m.dtype, m.cols, {m.rows, m.stride}, {1, m.rows * m.stride}, box, 1);
  };
  const std::int64_t values = kLine / static_cast<std::int64_t>(size_of(x.dtype));
  GatedKernel p{.x = map(x, kTileRows),
                .gate = map(gate, kTileCols),
                .up = map(up, kTileCols),
                .out = map(out, 64),
                .rows = static_cast<int>(x.rows),
                .cols = static_cast<int>(out.cols),
                .row_tiles = static_cast<int>(ceil_div(x.rows, kCluster * kTileRows)),
                .col_tiles = static_cast<int>(ceil_div(out.cols, kTileCols)),
                .row_group = row_group(context, x),
                .steps = static_cast<int>(ceil_div(x.cols, values)),
                .gate_terms = is_fp8 ? product.gate.scales : product.gate.bias,
                .up_terms = is_fp8 ? product.up.scales : product.up.bias,
                .x_scales = product.x_scales};
  if (is_fp8)
    launch<true>(context, p);
  else
    launch<false>(context, p);
}

}  // namespace purekv::cuda
