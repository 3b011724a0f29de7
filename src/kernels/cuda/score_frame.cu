#include <type_traits>

#include "device/transfer.h"
#include "kernels/cuda/frame_rows.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/score_frame_sm90.h"
#include "kernels/cuda/score_tiles.cuh"

/// local and self of docs/method.md. A block holds 256 packed query rows of a frame in registers and streams the
/// frame's keys twice, causally: first for the rows' log-sum-exp over the frame, then for each key's largest logit less
/// log-sum-exp (of the frame, and of the whole row) over the block's rows. exp() is monotonic, so one exponential a key
/// follows its maximum. A score is not negative, so its bits order like integers: blocks meet in atomicMax, which gives
/// the same bits in any order.
///
/// 2 * 2 * head_dim FLOPs a (query, key) pair and query head; reads q once, keys twice for every 256 / group queries
/// (from the second-level cache). Shared memory: three key tiles of 64 rows, 48 KiB at head_dim 128.
namespace purekv::cuda {
namespace {

struct FrameKernel {
  const FrameTile* tiles;
  const Bf16Bits* q;
  ScoreOperand queries, keys;
  HeadPointers k;
  const float* lse;  ///< [heads, rows] or null
  float* local;
  float* self;  ///< or null
  long long rows;
  int group;
  float scale;  ///< to base-2 logits
};

/// Base-2 log-sum-exps of a lane's rows 8 i + lane / 4, over the whole row and over the frame; +inf past the end, so
/// that no key's maximum comes from there.
struct RowLse {
  float whole[4], frame[4];
};
/// Largest scores of a tile's keys so far, as bits; double-buffered by tile.
using BestBits = int[2][2][kStreamRows];

/// One block's place.
struct FramePlace {
  FrameTile tile;
  int head;  ///< KV head
  int end;   ///< packed rows end before
  int keys;  ///< cells that the last row sees
  int row;   ///< first packed row of this warp
  __device__ int steps() const { return (keys + kStreamRows - 1) / kStreamRows; }
};

/// This thread's row of the block: the base-2 log-sum-exp of the whole row.
__device__ float whole_lse(const FrameKernel& p, const FramePlace& at) {
  const int packed = at.tile.first + static_cast<int>(threadIdx.x);
  if (packed >= at.end || p.lse == nullptr) return INFINITY;
  return p.lse[(at.head * p.group + packed % p.group) * p.rows + at.tile.start + packed / p.group] * kLog2E;
}

/// `whole` is the warp's share of the block's rows.
__device__ RowLse finish_lse(const FramePlace& at, RowSums& sums, const float* whole) {
  merge_lanes(sums);
  const int lane = threadIdx.x % 32;
  RowLse lse;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 8 * i + lane / 4;
    lse.whole[i] = whole[row];
    lse.frame[i] = at.row + row < at.end ? sums.top[i] + __log2f(sums.sum[i]) : INFINITY;
  }
  return lse;
}

/// Maxima of 16 keys of a tile, which begin at `tile`, over the warp's 32 rows, into `best` of these keys and both
/// kinds.
template <int kParts, class Hides>
__device__ void best_of_keys(const HeldRows<kParts>& held, LaneTile tile, const RowLse& lse, float scale, bool masked,
                             const Hides& hides, int* best) {
  float s[4][4] = {};  // [2 m + n][rows g, g + 8 x keys 2t, 2t + 1]
  multiply_tile<kParts>(s, held, tile);
  if (masked) hide_keys(s, hides);
  float top[2][2][2];  // [kind][n][e]
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = i / 2, e = i % 2;
    const float x[4] = {s[n][e], s[n][2 + e], s[2 + n][e], s[2 + n][2 + e]};
    top[0][n][e] = fmaf(x[0], scale, -lse.frame[0]);
    top[1][n][e] = fmaf(x[0], scale, -lse.whole[0]);
#pragma unroll
    for (int row = 1; row < 4; ++row) {
      top[0][n][e] = fmaxf(top[0][n][e], fmaf(x[row], scale, -lse.frame[row]));
      top[1][n][e] = fmaxf(top[1][n][e], fmaf(x[row], scale, -lse.whole[row]));
    }
  }
  // The eight lanes that hold a key's rows meet: each step halves what a lane holds, and one value is left.
  const int lane = threadIdx.x % 32;
  const int kind = lane / 4 % 2, e = lane / 8 % 2, n = lane / 16;
  float key[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float local = top[0][i / 2][i % 2];
    const float self = top[1][i / 2][i % 2];
    key[i / 2][i % 2] = meet_lane(kind == 0 ? local : self, kind == 0 ? self : local, 4);
  }
  float eight[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) eight[i] = meet_lane(e == 0 ? key[i][0] : key[i][1], e == 0 ? key[i][1] : key[i][0], 8);
  const float last = meet_lane(n == 0 ? eight[0] : eight[1], n == 0 ? eight[1] : eight[0], 16);
  const float score = exp2_fast(fminf(last, kMostSelf));
  atomicMax(best + kind * kStreamRows + 8 * n + 2 * (lane % 4) + e, __float_as_int(score));
}

/// What begins so many blocks later finds its queries in the second-level cache: 4 % of the time at 131k rows, half of
/// what an H100 runs at once being better than all of it.
constexpr unsigned kBlocksAhead = 132;

/// This thread's query row of another tile, towards the second-level cache: two lines of 128 bytes at head_dim 128.
__device__ void prefetch_row(const FrameKernel& p, const FrameTile& tile, int head) {
  const int packed = tile.first + static_cast<int>(threadIdx.x);
  if (packed >= tile.cells * p.group) return;
  const Bf16Bits* row =
      p.q + (tile.start + packed / p.group) * p.queries.stride + (head * p.group + packed % p.group) * p.queries.dims;
  for (int dim = 0; dim < p.queries.dims; dim += 64) asm volatile("prefetch.global.L2 [%0];\n" ::"l"(row + dim));
}

/// Hands a tile's maxima to the frame's and clears them. Threads 0 to 127.
__device__ void flush_best(const FrameKernel& p, const FramePlace& at, int step, BestBits& best) {
  if (threadIdx.x >= 2 * kStreamRows) return;
  const int kind = threadIdx.x / kStreamRows;
  const int column = threadIdx.x % kStreamRows;
  int& bits = best[step % 2][kind][column];
  const int key = step * kStreamRows + column;
  float* out = kind == 0 ? p.local : p.self;
  if (bits > 0 && key < at.keys && out != nullptr)
    atomicMax(reinterpret_cast<int*>(out + at.head * p.rows + at.tile.start + key), bits);
  bits = 0;
}

template <int kParts>
__global__ void __launch_bounds__(kScoreThreads, 2) score_frames(FrameKernel p) {
  extern __shared__ uint4 shared[];
  __shared__ float whole[kHeldRows];
  __shared__ BestBits best;
  char* ring = reinterpret_cast<char*>(shared);
  const int lane = threadIdx.x % 32;
  const unsigned later = min(blockIdx.y * gridDim.x + blockIdx.x + kBlocksAhead, gridDim.x * gridDim.y - 1);
  const FrameTile ahead = p.tiles[later % gridDim.x];
  FramePlace at{p.tiles[blockIdx.x], static_cast<int>(blockIdx.y), 0, 0, 0};
  at.end = min(at.tile.first + kHeldRows, at.tile.cells * p.group);
  at.keys = (at.end - 1) / p.group + 1;
  at.row = at.tile.first + static_cast<int>(threadIdx.x / 32) * 32;
  const int steps = at.steps();
  const Bf16Bits* keys = p.k.head[at.head] + at.tile.start * p.keys.stride;
  const auto stream = [&](int step) {
    stream_tile<kParts>(ring + step % kStreamStages * kStreamBytes<kParts>, p.keys, keys, [&](int row) {
      const int key = step % steps * kStreamRows + row;
      return key < at.keys ? keys + key * p.keys.stride : nullptr;
    });
  };
  stream(0);
  cp_async_commit();
  stream(1);
  cp_async_commit();
  HeldRows<kParts> held;
  hold_rows<kParts>(held, p.queries, [&](int row) -> const Bf16Bits* {
    const int packed = at.row + row;
    if (packed >= at.end) return nullptr;
    return p.q + (at.tile.start + packed / p.group) * p.queries.stride +
           (at.head * p.group + packed % p.group) * p.queries.dims;
  });
  prefetch_row(p, ahead, static_cast<int>(later / gridDim.x));
  whole[threadIdx.x] = whole_lse(p, at);
  (&best[0][0][0])[threadIdx.x] = 0;
  RowSums sums;
  sums.clear();
  const LaneTile lanes = lane_tile<kParts>(ring);
  // Both passes are one stream of tiles, so that the second begins without a gap.
  const auto next_tile = [&](int step) {
    cp_async_wait<kStreamStages - 2>();
    __syncthreads();
    if (step + 2 < 2 * steps) stream(step + 2);
    cp_async_commit();
    return lanes.at(step % kStreamStages * kStreamBytes<kParts>);
  };
  const int seen = (at.row + 31) / p.group + 1;  // keys of the warp's last row
  for (int step = 0; step < steps; ++step) {
    LaneTile tile = next_tile(step);
    const int end = min((step + 1) * kStreamRows, seen);
    for (int key = step * kStreamRows; key < end; key += 16, tile = tile.at(kSixteenRows<kParts>))
      add_keys<kParts>(sums, held, tile, p.scale, (key + 15) * p.group > at.row,
                       [&](int i, int k) { return (key + k) * p.group > at.row + 8 * i + lane / 4; });
  }
  const RowLse lse = finish_lse(at, sums, whole + threadIdx.x / 32 * 32);
  for (int step = 0; step < steps; ++step) {
    LaneTile tile = next_tile(steps + step);
    if (step > 0) flush_best(p, at, step - 1, best);
    int* best_now = &best[step % 2][0][0];
    const int end = min((step + 1) * kStreamRows, seen);
    for (int key = step * kStreamRows; key < end; key += 16, tile = tile.at(kSixteenRows<kParts>), best_now += 16)
      best_of_keys<kParts>(
          held, tile, lse, p.scale, (key + 15) * p.group > at.row,
          [&](int i, int k) { return (key + k) * p.group > at.row + 8 * i + lane / 4; }, best_now);
  }
  __syncthreads();
  flush_best(p, at, steps - 1, best);
}

template <int kParts>
void launch(const Context& context, const FrameKernel& p, std::int64_t tiles, std::int64_t kv_heads) {
  constexpr int kShared = kStreamStages * kStreamBytes<kParts>;
  allow_shared(score_frames<kParts>, kShared);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(kv_heads));
  score_frames<kParts><<<grid, kScoreThreads, kShared, stream_of(context)>>>(p);
  check_launch("scoring frames");
}

}  // namespace

void frame_score(const Context& context, const FrameScoreParams& params) {
  static_assert(kFrameTileRows == kHeldRows);
  const HeadShape& shape = params.shape;
  const std::int64_t rows = params.table->rows;
  PUREKV_ASSERT(params.q.dtype == DType::kBF16 && params.scale > 0 &&
                (params.self == nullptr || params.lse != nullptr));
  const std::int64_t bytes = shape.kv_heads * rows * static_cast<std::int64_t>(sizeof(float));
  fill_zero(context, params.local, bytes);
  if (params.self != nullptr) fill_zero(context, params.self, bytes);
  if (params.table->frames.empty()) return;
  const auto frames = frame_rows(context, *params.table, shape);
  if (score_frame_sm90_takes(context, params)) return score_frame_sm90(context, params, *frames);
  FrameKernel p{.tiles = frames->tiles.as<FrameTile>(),
                .q = static_cast<const Bf16Bits*>(params.q.data),
                .queries = query_operand(params.q, shape),
                .keys = {},
                .k = {},
                .lse = params.self == nullptr ? nullptr : params.lse,
                .local = params.local,
                .self = params.self,
                .rows = rows,
                .group = static_cast<int>(shape.group()),
                .scale = params.scale * kLog2E};
  p.keys = operand_of(params.kv, false, static_cast<int>(shape.head_dim), p.k);
  if (shape.head_dim <= 2 * kDimsAPart) return launch<2>(context, p, frames->tile_count, shape.kv_heads);
  launch<4>(context, p, frames->tile_count, shape.kv_heads);
}

}  // namespace purekv::cuda
