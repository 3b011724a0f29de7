#include <algorithm>

#include "device/buffer.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/score_window.cuh"
#include "kernels/cuda/score_window_sm90.h"

/// Attention of the last w rows, eq. 2 of the paper, in three launches:
/// 1. log-sum-exp of the w * group rows: blocks hold 256 rows and stream a piece of the keys, causally;
/// 2. pieces become one, in order (where the caller knows the log-sum-exps, only this step, which arranges them);
/// 3. columns: a block holds 256 keys, 32 a warp, and streams the packed queries head by head, so that a key is an
///    accumulator row: sums and maxima over queries stay in registers, every key has one writer, nothing is atomic.
///
/// On Hopper score_window_sm90.cu does step 3.
///
/// 2 * 2 * w * l * head_dim * heads FLOPs; reads K twice, and the packed queries once for every 256 keys (from the
/// second-level cache). Shared memory: three tiles of 64 rows, 48 KiB at head_dim 128.
namespace purekv::cuda {
namespace {

constexpr int kHeadRows = 16;  ///< a head's window rows are padded to this in the order that step 3 streams

/// Grid: pieces of the keys, packed rows by 256, KV heads.
template <int kParts>
__global__ void __launch_bounds__(kScoreThreads, 2) sum_rows(WindowKernel p) {
  extern __shared__ uint4 shared[];
  char* ring = reinterpret_cast<char*>(shared);
  const int lane = threadIdx.x % 32;
  const int head = blockIdx.z;
  const int rows = p.group * p.padded;
  const int first_row = static_cast<int>(blockIdx.y * kHeldRows + threadIdx.x / 32 * 32);
  const Bf16Bits* keys = p.k.head[head];
  const int begin = static_cast<int>(blockIdx.x) * p.piece_keys;
  const int end = min(begin + p.piece_keys, static_cast<int>(p.columns) + p.window);
  const int steps = (end - begin + kStreamRows - 1) / kStreamRows;
  const auto stream = [&](int step) {
    stream_tile<kParts>(ring + step % kStreamStages * kStreamBytes<kParts>, p.keys, keys, [&](int row) {
      const int key = begin + step * kStreamRows + row;
      return key < end ? keys + key * p.keys.stride : nullptr;
    });
  };
  stream(0);
  cp_async_commit();
  if (steps > 1) stream(1);
  cp_async_commit();
  HeldRows<kParts> held;
  hold_rows<kParts>(held, p.queries, [&](int row) { return window_row(p, head, first_row + row); });
  RowSums sums;
  sums.clear();
  const LaneTile lanes = lane_tile<kParts>(ring);
  const auto columns = static_cast<int>(p.columns);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStreamStages - 2>();
    __syncthreads();
    if (step + 2 < steps) stream(step + 2);
    cp_async_commit();
    if (first_row >= rows) continue;
    LaneTile tile = lanes.at(step % kStreamStages * kStreamBytes<kParts>);
    const int first = begin + step * kStreamRows;
    for (int key = first; key < min(first + kStreamRows, end); key += 16, tile = tile.at(kSixteenRows<kParts>))
      add_keys<kParts>(sums, held, tile, p.scale, key + 15 > min(columns, end - 1), [&](int i, int k) {
        return key + k > min(columns + (first_row + 8 * i + lane / 4) % p.padded, end - 1);
      });
  }
  merge_lanes(sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + 8 * i + lane / 4;
    if (lane % 4 == 0 && row < rows)
      p.partial[(static_cast<long long>(blockIdx.x) * gridDim.z + head) * rows + row] =
          make_float2(sums.top[i], sums.sum[i]);
  }
}

/// A warp a packed row: lane i has pieces i, i + 32, ...; then the lanes meet as a tree.
__global__ void __launch_bounds__(kScoreThreads) merge_rows(WindowKernel p, int rows) {
  const int row = static_cast<int>(blockIdx.x * (kScoreThreads / 32) + threadIdx.x / 32);
  if (row >= rows) return;
  float top = kNoLogit;
  float sum = 0;
  for (int piece = threadIdx.x % 32; piece < p.pieces; piece += 32) {
    const float2 part = p.partial[static_cast<long long>(piece) * rows + row];
    merge_sums(top, sum, part.x, part.y);
  }
  for (int step = 1; step < 32; step *= 2) {
    const float other_top = __shfl_xor_sync(kFullWarp, top, step);
    const float other_sum = __shfl_xor_sync(kFullWarp, sum, step);
    merge_sums(top, sum, other_top, other_sum);
  }
  if (threadIdx.x % 32 == 0) p.lse[row] = row % p.padded < p.window ? top + log2f(sum) : INFINITY;
}

/// The log-sum-exps that the caller knows, [heads, keys], in the order of WindowKernel::lse. Grid: packed rows by 256.
__global__ void __launch_bounds__(kScoreThreads) take_rows(WindowKernel p, const float* known, int rows) {
  const int row = static_cast<int>(blockIdx.x * kScoreThreads + threadIdx.x);
  if (row >= rows) return;
  const int i = row % p.padded;
  const long long keys = p.columns + p.window;
  p.lse[row] = i < p.window ? known[row / p.padded * keys + p.columns + i] * kLog2E : INFINITY;
}

/// What a lane knows of its four held keys, 16 m + 8 half + lane / 4.
struct KeyScores {
  float head[2][2];   ///< over the rows of the head so far: base-2 maximum, or sum
  float group[2][2];  ///< over the heads before it
};

/// Ends a head: its lanes meet, and its score joins the group's.
template <bool kRowMax>
__device__ void end_head(KeyScores& scores, bool group_max) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float& x = scores.head[i / 2][i % 2];
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const float other = __shfl_xor_sync(kFullWarp, x, step);
      x = kRowMax ? fmaxf(x, other) : x + other;
    }
    const float score = kRowMax ? exp2_fast(x) : x;
    float& all = scores.group[i / 2][i % 2];
    all = group_max ? fmaxf(all, score) : all + score;
    x = kRowMax ? -INFINITY : 0.0F;
  }
}

/// Grid: keys by 256, KV heads.
template <int kParts>
inline constexpr int kStageBytes = kStreamBytes<kParts> + kStreamRows * static_cast<int>(sizeof(float));

/// Shared memory: three tiles of queries, each with its rows' log-sum-exps behind it.
template <int kParts, bool kRowMax>
__global__ void __launch_bounds__(kScoreThreads, 2) score_keys(WindowKernel p) {
  extern __shared__ uint4 shared[];
  char* ring = reinterpret_cast<char*>(shared);
  const int lane = threadIdx.x % 32;
  const int head = blockIdx.y;
  const long long first_key = static_cast<long long>(blockIdx.x) * kHeldRows + threadIdx.x / 32 * 32;
  const int rows = p.group * p.padded;
  const int steps = (rows + kStreamRows - 1) / kStreamRows;
  const float* lse = p.lse + static_cast<long long>(head) * rows;
  const auto stream = [&](int step) {
    char* stage = ring + step % kStreamStages * kStageBytes<kParts>;
    stream_tile<kParts>(stage, p.queries, p.q, [&](int row) { return window_row(p, head, step * kStreamRows + row); });
    const int row = step * kStreamRows + 4 * static_cast<int>(threadIdx.x);
    if (threadIdx.x < kStreamRows / 4 && row < rows)
      cp_async_16(shared_address(stage + kStreamBytes<kParts> + 16 * threadIdx.x), lse + row);
  };
  stream(0);
  cp_async_commit();
  if (steps > 1) stream(1);
  cp_async_commit();
  HeldRows<kParts> held;
  hold_rows<kParts>(held, p.keys, [&](int row) {
    return first_key + row < p.columns ? p.k.head[head] + (first_key + row) * p.keys.stride : nullptr;
  });
  KeyScores scores;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores.head[i / 2][i % 2] = kRowMax ? -INFINITY : 0.0F;
    scores.group[i / 2][i % 2] = 0;
  }
  const LaneTile lanes = lane_tile<kParts>(ring);
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStreamStages - 2>();
    __syncthreads();
    if (step + 2 < steps) stream(step + 2);
    cp_async_commit();
    const int stage = step % kStreamStages * kStageBytes<kParts>;
    LaneTile tile = lanes.at(stage);
    const auto* less = reinterpret_cast<const float2*>(ring + stage + kStreamBytes<kParts>) + lane % 4;
    const int end = min((step + 1) * kStreamRows, rows);
    for (int row = step * kStreamRows; row < end; row += 16, tile = tile.at(kSixteenRows<kParts>), less += 8) {
      float s[4][4] = {};  // [2 m + n][keys g, g + 8 x queries 2t, 2t + 1]
      multiply_tile<kParts>(s, held, tile);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const int m = i / 8, half = i / 4 % 2, n = i / 2 % 2, e = i % 2;
        const float x = fmaf(s[2 * m + n][2 * half + e], p.scale, e == 0 ? -less[4 * n].x : -less[4 * n].y);
        float& all = scores.head[m][half];
        all = kRowMax ? fmaxf(all, x) : all + exp2_fast(x);
      }
      if ((row + 16) % p.padded == 0) end_head<kRowMax>(scores, p.group_max);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const long long key = first_key + 8 * i + lane / 4;
    const float score = scores.group[i / 2][i % 2];
    if (lane % 4 == 0 && key < p.columns)
      p.out[head * p.columns + key] = p.group_max ? score : score / static_cast<float>(p.group);
  }
}

/// Fills WindowKernel::lse from the keys. Keys of a piece, whole tiles: as many pieces as fill an H100 twice, by shape
/// only, so that sums are cut alike on every GPU.
template <int kParts>
void sum_window(const Context& context, WindowKernel p, unsigned kv_heads) {
  constexpr int kShared = kStreamStages * kStreamBytes<kParts>;
  constexpr std::int64_t kBlocks = 264;
  const std::int64_t keys = p.columns + p.window;
  const int rows = p.group * p.padded;
  const std::int64_t row_tiles = ceil_div(rows, kHeldRows);
  const std::int64_t most_pieces = std::max<std::int64_t>(1, kBlocks / (kv_heads * row_tiles));
  p.piece_keys = static_cast<int>(ceil_div(ceil_div(keys, most_pieces), kStreamRows) * kStreamRows);
  p.pieces = static_cast<int>(ceil_div(keys, p.piece_keys));
  const int all_rows = rows * static_cast<int>(kv_heads);
  const Buffer partial(context, std::int64_t{p.pieces} * all_rows * static_cast<std::int64_t>(sizeof(float2)));
  p.partial = partial.as<float2>();
  allow_shared(sum_rows<kParts>, kShared);
  const dim3 grid(static_cast<unsigned>(p.pieces), static_cast<unsigned>(row_tiles), kv_heads);
  sum_rows<kParts><<<grid, kScoreThreads, kShared, stream_of(context)>>>(p);
  check_launch("summing the window's rows");
  const auto blocks = static_cast<unsigned>(ceil_div(all_rows, kScoreThreads / 32));
  merge_rows<<<blocks, kScoreThreads, 0, stream_of(context)>>>(p, all_rows);
  check_launch("merging the window's rows");
}

template <int kParts>
void launch(const Context& context, const WindowKernel& p, const float* known, const HeadShape& shape, bool row_max) {
  cudaStream_t stream = stream_of(context);
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads);
  if (known == nullptr) sum_window<kParts>(context, p, kv_heads);
  if (score_window_sm90_takes(context, shape, p.window)) return score_window_sm90(context, shape, p, known, row_max);
  if (known != nullptr) {
    const int rows = p.group * p.padded * static_cast<int>(kv_heads);
    take_rows<<<static_cast<unsigned>(ceil_div(rows, kScoreThreads)), kScoreThreads, 0, stream>>>(p, known, rows);
    check_launch("taking the window's rows");
  }
  auto* const score = row_max ? score_keys<kParts, true> : score_keys<kParts, false>;
  constexpr int kSharedKeys = kStreamStages * kStageBytes<kParts>;
  allow_shared(score, kSharedKeys);
  score<<<dim3(static_cast<unsigned>(ceil_div(p.columns, kHeldRows)), kv_heads), kScoreThreads, kSharedKeys, stream>>>(
      p);
  check_launch("scoring keys by the window");
}

}  // namespace

void window_score(const Context& context, const WindowScoreParams& params) {
  const HeadShape& shape = params.shape;
  const std::int64_t keys = params.q.rows;
  PUREKV_ASSERT(params.scale > 0);
  if (keys == params.window) return;
  const bool sm90 = score_window_sm90_takes(context, shape, params.window);
  const std::int64_t pad = sm90 ? kWindowTileRows : kHeadRows;
  WindowKernel p{.q = params.q.row<Bf16Bits>(keys - params.window),
                 .queries = query_operand(params.q, shape),
                 .keys = {},
                 .k = {},
                 .columns = keys - params.window,
                 .window = static_cast<int>(params.window),
                 .padded = static_cast<int>(ceil_div(params.window, pad) * pad),
                 .group = static_cast<int>(shape.group()),
                 .scale = params.scale * kLog2E,
                 .piece_keys = 0,
                 .pieces = 0,
                 .partial = nullptr,
                 .lse = nullptr,
                 .group_max = params.group_max,
                 .out = params.out};
  p.keys = operand_of(params.kv, false, static_cast<int>(shape.head_dim), p.k);
  const std::int64_t rows = p.group * static_cast<std::int64_t>(p.padded);
  const Buffer lse(context, shape.kv_heads * rows * static_cast<std::int64_t>(sizeof(float)));
  p.lse = lse.as<float>();
  if (shape.head_dim <= 2 * kDimsAPart) return launch<2>(context, p, params.lse, shape, params.row_max);
  launch<4>(context, p, params.lse, shape, params.row_max);
}

}  // namespace purekv::cuda
