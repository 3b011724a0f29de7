#include "kernels/cuda/score_window_sm90.h"

#include <algorithm>

#include "device/buffer.h"
#include "kernels/cuda/score_window.cuh"
#include "kernels/cuda/wgmma.cuh"

/// Window scores on Hopper: a warpgroup has 64 keys as operand in registers, and the window's rows of a KV head's whole
/// group stay in shared memory while a block goes through its share of the keys: nothing but K moves. Keys are an
/// accumulator's rows, so that sums and maxima over queries are sums and maxima of registers.
///
/// 2 * w * l * head_dim * heads FLOPs, w in multiples of 64; reads K once. Shared memory: 16 KiB for 64 window rows of
/// a head at head_dim 128. Dims are permuted as in score_tiles.cuh.
/// Measured on an H200, 28/4 heads, 32k keys, 64 rows: 37 us with the packing (mma.sync: 58).
namespace purekv::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarpgroups = kThreads / 128;
constexpr int kWarpgroupKeys = 64;
constexpr int kTileRows = static_cast<int>(kWindowTileRows);
constexpr int kPackThreads = 256;
constexpr int kStepBytes = kTileRows * 32;  ///< 16 dims

template <int kParts>
inline constexpr int kTileBytes = 2 * kParts * kStepBytes;

/// Dims [dim, dim + 2) of a row in one word.
__device__ unsigned load_pair(const Bf16Bits* row, int dim, const ScoreOperand& operand) {
  if (row == nullptr || dim >= operand.dims) return 0;
  if (operand.aligned) return __ldg(reinterpret_cast<const unsigned*>(row + dim));
  return row[dim] | (dim + 1 < operand.dims ? static_cast<unsigned>(row[dim + 1]) << 16 : 0U);
}

/// Grid: tiles of a KV head, KV heads. Writes a tile as plain_operand() reads it, step after step, and its log-sum-exps
/// where they are known.
template <int kParts>
__global__ void __launch_bounds__(kPackThreads) pack_window(const WindowKernel p, const float* known, uint4* tiles) {
  const int head = blockIdx.y;
  const int first = static_cast<int>(blockIdx.x) * kTileRows;
  uint4* to = tiles + static_cast<long long>(head * gridDim.x + blockIdx.x) * (kTileBytes<kParts> / 16);
  for (int i = threadIdx.x; i < kTileBytes<kParts> / 16; i += kPackThreads) {
    const int step = i / (2 * kTileRows);
    const int half = i / 8 % 2;
    const Bf16Bits* row = window_row(p, head, first + i % (2 * kTileRows) / 16 * 8 + i % 8);
    const int dim = kDimsAPart * (step / 2) + 4 * (step % 2) + 2 * half;
    to[i] = make_uint4(load_pair(row, dim, p.queries), load_pair(row, dim + 8, p.queries),
                       load_pair(row, dim + 16, p.queries), load_pair(row, dim + 24, p.queries));
  }
  if (known == nullptr || threadIdx.x >= kTileRows) return;
  const int row = first + static_cast<int>(threadIdx.x);
  const int i = row % p.padded;
  const long long at = (head * p.group + row / p.padded) * (p.columns + p.window) + p.columns + i;
  p.lse[head * p.group * p.padded + row] = i < p.window ? known[at] * kLog2E : INFINITY;
}

/// A lane's keys, 16 dims a step.
template <bool kAligned, int kParts>
__device__ void load_keys(const WindowKernel& p, int head, long long first, std::uint32_t (&a)[2 * kParts][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const long long key = first + 8 * half + threadIdx.x % 32 / 4;
    const Bf16Bits* row = key < p.columns ? p.k.head[head] + key * p.keys.stride : nullptr;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint4 words =
          load_dims<kAligned>(row, kDimsAPart * part + 8 * static_cast<int>(threadIdx.x % 4), p.keys.dims);
      a[2 * part][half] = words.x;
      a[2 * part][half + 2] = words.y;
      a[2 * part + 1][half] = words.z;
      a[2 * part + 1][half + 2] = words.w;
    }
  }
}

/// Base-2 maxima, or sums, of a lane's two keys over the rows of a tile. `less` are the rows' log-sum-exps.
template <int kParts, bool kRowMax>
__device__ __forceinline__ void add_tile(const std::uint32_t (&a)[2 * kParts][4], std::uint32_t tile, const float* less,
                                         float scale, float (&scores)[2]) {
  float s[32];
  hopper::wgmma_fence();
#pragma unroll
  for (int step = 0; step < 2 * kParts; ++step)
    hopper::multiply_bf16_64(s, a[step], hopper::plain_operand(tile + step * kStepBytes), step != 0);
  hopper::wgmma_commit();
  hopper::wgmma_wait<0>();
  hopper::pin(s);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 row = *reinterpret_cast<const float2*>(less + 8 * j + 2 * (threadIdx.x % 4));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = fmaf(s[4 * j + 2 * half], scale, -row.x);
      const float y = fmaf(s[4 * j + 2 * half + 1], scale, -row.y);
      scores[half] = kRowMax ? fmaxf(scores[half], fmaxf(x, y)) : scores[half] + (exp2_fast(x) + exp2_fast(y));
    }
  }
}

/// Score of a head: its quad's lanes meet.
template <bool kRowMax>
__device__ float head_score(float x) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const float other = __shfl_xor_sync(kFullWarp, x, step);
    x = kRowMax ? fmaxf(x, other) : x + other;
  }
  return kRowMax ? exp2_fast(x) : x;
}

/// Grid: shares of the keys, KV heads. Shared memory: the tiles, their rows' log-sum-exps, a barrier a tile.
template <int kParts, bool kRowMax>
__global__ void __launch_bounds__(kThreads, 1) score_keys_sm90(const WindowKernel p, const uint4* tiles) {
  extern __shared__ __align__(128) unsigned char raw[];
  const int head = blockIdx.y;
  const int rows = p.group * p.padded;
  const int count = rows / kTileRows;
  auto* less = reinterpret_cast<float*>(raw + count * kTileBytes<kParts>);
  const std::uint32_t first_tile = hopper::shared_address(raw);
  const std::uint32_t barriers = hopper::shared_address(less + rows);
  if (threadIdx.x == 0) {
    for (int t = 0; t < count; ++t) hopper::barrier_init(barriers + 8 * t, 1);
    hopper::barrier_init_fence();
    const auto* from =
        reinterpret_cast<const unsigned char*>(tiles) + static_cast<long long>(head) * count * kTileBytes<kParts>;
    for (int t = 0; t < count; ++t) {
      hopper::barrier_expect(barriers + 8 * t, kTileBytes<kParts>);
      hopper::load_bytes(first_tile + t * kTileBytes<kParts>, from + t * kTileBytes<kParts>, kTileBytes<kParts>,
                         barriers + 8 * t);
    }
  }
  for (int i = threadIdx.x; i < rows; i += kThreads) less[i] = p.lse[head * rows + i];
  __syncthreads();
  const int per_head = p.padded / kTileRows;
  const long long units = (p.columns + kWarpgroupKeys - 1) / kWarpgroupKeys;
  const int warp_key = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
  for (long long unit = blockIdx.x * kWarpgroups + threadIdx.x / 128; unit < units; unit += gridDim.x * kWarpgroups) {
    const long long first = unit * kWarpgroupKeys + warp_key;
    std::uint32_t a[2 * kParts][4];
    if (p.keys.aligned)
      load_keys<true, kParts>(p, head, first, a);
    else
      load_keys<false, kParts>(p, head, first, a);
    prefetch_rows(p.k.head[head], p.keys, (unit + gridDim.x * kWarpgroups) * kWarpgroupKeys, p.columns);
    float group[2] = {0, 0};
    for (int t = 0; t < count;) {
      float scores[2] = {kRowMax ? -INFINITY : 0.0F, kRowMax ? -INFINITY : 0.0F};
      for (int i = 0; i < per_head; ++i, ++t) {
        hopper::barrier_wait(barriers + 8 * t, 0);
        add_tile<kParts, kRowMax>(a, first_tile + t * kTileBytes<kParts>, less + t * kTileRows, p.scale, scores);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float score = head_score<kRowMax>(scores[half]);
        group[half] = p.group_max ? fmaxf(group[half], score) : group[half] + score;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const long long key = first + 8 * half + threadIdx.x % 32 / 4;
      if (threadIdx.x % 4 == 0 && key < p.columns)
        p.out[head * p.columns + key] = p.group_max ? group[half] : group[half] / static_cast<float>(p.group);
    }
  }
}

std::int64_t tile_bytes(const HeadShape& shape) {
  return shape.head_dim <= 2 * kDimsAPart ? kTileBytes<2> : kTileBytes<4>;
}

std::int64_t shared_bytes(const HeadShape& shape, std::int64_t window) {
  const std::int64_t tiles = shape.group() * ceil_div(window, kWindowTileRows);
  return tiles * (tile_bytes(shape) + kTileRows * static_cast<std::int64_t>(sizeof(float)) + 8);
}

template <int kParts>
void launch(const Context& context, const HeadShape& shape, const WindowKernel& p, const float* known, bool row_max) {
  const std::int64_t tiles = std::int64_t{p.group} * p.padded / kTileRows;
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads);
  const Buffer packed(context, kv_heads * tiles * kTileBytes<kParts>);
  const dim3 pack_grid(static_cast<unsigned>(tiles), kv_heads);
  pack_window<kParts><<<pack_grid, kPackThreads, 0, stream_of(context)>>>(p, known, packed.as<uint4>());
  check_launch("packing the window's rows");
  auto* const score = row_max ? score_keys_sm90<kParts, true> : score_keys_sm90<kParts, false>;
  const auto bytes = static_cast<std::size_t>(shared_bytes(shape, p.window));
  allow_shared(score, bytes);
  const std::int64_t most = ceil_div(ceil_div(p.columns, kWarpgroupKeys), kWarpgroups);
  const std::int64_t share = std::clamp<std::int64_t>(context.cuda->sms / shape.kv_heads, 1, most);
  const dim3 grid(static_cast<unsigned>(share), kv_heads);
  score<<<grid, kThreads, bytes, stream_of(context)>>>(p, packed.as<uint4>());
  check_launch("scoring keys by the window");
}

}  // namespace

bool score_window_sm90_takes(const Context& context, const HeadShape& shape, std::int64_t window) {
  return context.cuda->capability == 90 &&
         shared_bytes(shape, window) <= static_cast<std::int64_t>(context.cuda->smem_bytes);
}

void score_window_sm90(const Context& context, const HeadShape& shape, const WindowKernel& p, const float* known,
                       bool row_max) {
  if (shape.head_dim <= 2 * kDimsAPart) return launch<2>(context, shape, p, known, row_max);
  launch<4>(context, shape, p, known, row_max);
}

}  // namespace purekv::cuda
