#include "kernels/rope_attention.h"

#include <limits>
#include <numbers>

#include "device/transfer.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kRows = 64;       ///< of a window at most
constexpr int kBlockHeads = 2;  ///< heads of a block: they share the angles
constexpr int kWarpRows = 16;   ///< query rows of a warp: one tile of mma.sync
constexpr int kThreads = kBlockHeads * kRows / kWarpRows * 32;
constexpr int kBlocks = 3;  ///< of a multiprocessor: some load while others compute

/// Rows [first, first + count) that see each other and nothing else.
struct Window {
  std::int32_t first = 0, count = 0;
};

/// A plan's windows on the device.
struct DeviceWindows final : AttentionPlan::Prepared {
  std::int64_t count = 0;
  Buffer windows;
};

struct WindowArgs {
  const bf16* qkv;
  bf16* out;
  std::int64_t qkv_stride, out_stride;
  const float *cos, *sin;
  const Window* windows;
  std::int32_t heads, groups;  ///< groups of kBlockHeads
  float scale_log2;
};

/// Shared memory: q, k, v of kBlockHeads heads. A row is an odd number of 16-byte units, so that eight rows of a matrix
/// lie in different banks.
template <int D>
struct Layout {
  static constexpr int kUnits = D / kUnit;
  static constexpr int kStride = D + kUnit;
  static constexpr int kTile = kRows * kStride;
  static constexpr int kBytes = 3 * kBlockHeads * kTile * static_cast<int>(sizeof(bf16));
  static_assert((kStride / kUnit) % 2 == 1);

  /// part: 0 q, 1 k, 2 v.
  __device__ static int at(int part, int head, int row) { return (part * kBlockHeads + head) * kTile + row * kStride; }
};

/// What a block works on.
struct Place {
  Window window;
  int head, heads;  ///< first head and how many
};

/// Queues the copies of one part; rows and heads that do not exist become zeros, for 0 times what memory holds may be
/// NaN.
template <int D>
__device__ void load_part(const WindowArgs& args, const Place& place, int part, bf16* shared) {
  using L = Layout<D>;
  constexpr int kRowUnits = kBlockHeads * L::kUnits;
  const bf16* base =
      args.qkv + place.window.first * args.qkv_stride + (static_cast<std::int64_t>(part) * args.heads + place.head) * D;
#pragma unroll 3
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kRowUnits; i += kThreads) {
    const int row = i / kRowUnits;
    const int unit = i % kRowUnits;
    const bool exists = row < place.window.count && unit < place.heads * L::kUnits;
    const bf16* from = base + (exists ? row * args.qkv_stride + unit * kUnit : 0);
    bf16* to = shared + L::at(part, unit / L::kUnits, row) + unit % L::kUnits * kUnit;
    cp_async_16(shared_address(to), from, exists ? 16 : 0);
  }
  cp_async_commit();
}

/// The angles of a thread's pairs: eight pairs (j, j + D / 2) of a row a round.
template <int D>
struct Angles {
  static constexpr int kRowUnits = D / 2 / kUnit;
  static constexpr int kRounds = static_cast<int>(ceil_div(kRows * kRowUnits, kThreads));
  float cos[kRounds][kUnit], sin[kRounds][kUnit];

  __device__ static int row(int round) { return (static_cast<int>(threadIdx.x) + round * kThreads) / kRowUnits; }
  __device__ static int column(int round) {
    return (static_cast<int>(threadIdx.x) + round * kThreads) % kRowUnits * kUnit;
  }
  __device__ void load(const WindowArgs& args, const Window& window) {
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {
      if (row(n) >= window.count) continue;
      const std::int64_t at = static_cast<std::int64_t>(window.first + row(n)) * (D / 2) + column(n);
      load_unit(args.cos + at, cos[n]);
      load_unit(args.sin + at, sin[n]);
    }
  }
  /// Turns q and k in shared memory; the same arithmetic and rounding as rope_split.
  __device__ void turn(const Window& window, bf16* shared) const {
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {
      if (row(n) >= window.count) continue;
#pragma unroll
      for (int tile = 0; tile < 2 * kBlockHeads; ++tile) {
        bf16* at = shared + Layout<D>::at(0, tile, row(n)) + column(n);
        float low[kUnit];
        float high[kUnit];
        load_unit(at, low);
        load_unit(at + D / 2, high);
#pragma unroll
        for (int i = 0; i < kUnit; ++i) {
          const float x = low[i];
          low[i] = x * cos[n][i] - high[i] * sin[n][i];
          high[i] = high[i] * cos[n][i] + x * sin[n][i];
        }
        store_unit(at, low);
        store_unit(at + D / 2, high);
      }
    }
  }
};

/// kWarpRows query rows of one head.
template <int D>
class Warp {
 public:
  using L = Layout<D>;
  __device__ Warp(bf16* shared, int head, int first)
      : q_(shared + L::at(0, head, first)), k_(shared + L::at(1, head, 0)), v_(shared + L::at(2, head, 0)) {}

  __device__ void attend(float scale_log2, int keys) {
    float s[kRows / 8][4] = {};
    multiply_keys(s);
    float inverse[2];
    soften(s, scale_log2, keys, inverse);
    std::uint32_t p[kRows / 16][4];
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
      p[n / 2][n % 2 * 2] = pack_bf16(s[n][0], s[n][1]);
      p[n / 2][n % 2 * 2 + 1] = pack_bf16(s[n][2], s[n][3]);
    }
    float o[D / 8][4] = {};
    multiply_values(p, o);
    write(o, inverse);
  }

  /// The finished rows, which lie where the queries were, in 16-byte pieces.
  __device__ void send(bf16* out, std::int64_t stride, int rows) const {
    for (int i = lane_; i < kWarpRows * L::kUnits; i += 32) {
      const int row = i / L::kUnits;
      const int column = i % L::kUnits * kUnit;
      if (row < rows)
        *reinterpret_cast<uint4*>(out + row * stride + column) =
            *reinterpret_cast<const uint4*>(q_ + row * L::kStride + column);
    }
  }

 private:
  /// s = Q K^T.
  __device__ void multiply_keys(float (&s)[kRows / 8][4]) const {
    const int half = lane_ / 8 % 2 * 8;
    const int quarter = lane_ / 16 * 8;
    const std::uint32_t q = shared_address(q_ + (lane_ % 8 + half) * L::kStride + quarter);
    const std::uint32_t k = shared_address(k_ + (lane_ % 8 + quarter) * L::kStride + half);
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t a[4];
      ldmatrix_x4(a, q + d * 32);
#pragma unroll
      for (int n = 0; n < kRows / 16; ++n) {
        std::uint32_t b[4];
        ldmatrix_x4(b, k + n * kSixteenRows + d * 32);
        mma_bf16(s[2 * n], a, b[0], b[1]);
        mma_bf16(s[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  /// Logits of 16 rows to e^(logit - top), without the sum's division.
  __device__ void soften(float (&s)[kRows / 8][4], float scale_log2, int keys, float (&inverse)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          if (8 * n + lane_ % 4 * 2 + i % 2 >= keys) s[n][i] = -INFINITY;
          top = fmaxf(top, s[n][i]);
        }
      top = fmaxf(top, __shfl_xor_sync(~0U, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0U, top, 2));
      const float offset = top == -INFINITY ? 0.0F : top * scale_log2;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          s[n][i] = exp2_fast(s[n][i] * scale_log2 - offset);
          sum += s[n][i];
        }
      sum += __shfl_xor_sync(~0U, sum, 1);
      sum += __shfl_xor_sync(~0U, sum, 2);
      inverse[r] = sum == 0 ? 0.0F : 1.0F / sum;  // a row that sees nothing is 0; a NaN passes
    }
  }

  /// o = P V.
  __device__ void multiply_values(const std::uint32_t (&p)[kRows / 16][4], float (&o)[D / 8][4]) const {
    const std::uint32_t v = shared_address(v_ + (lane_ % 16) * L::kStride + lane_ / 16 * 8);
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k)
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        std::uint32_t b[4];
        ldmatrix_x4_trans(b, v + k * kSixteenRows + n * 32);
        mma_bf16(o[2 * n], p[k], b[0], b[1]);
        mma_bf16(o[2 * n + 1], p[k], b[2], b[3]);
      }
  }

  /// Over the warp's own queries, which nobody else reads.
  __device__ void write(const float (&o)[D / 8][4], const float (&inverse)[2]) const {
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        *reinterpret_cast<std::uint32_t*>(q_ + (8 * r + lane_ / 4) * L::kStride + 8 * n + lane_ % 4 * 2) =
            pack_bf16(o[n][2 * r] * inverse[r], o[n][2 * r + 1] * inverse[r]);
    __syncwarp();
  }

  static constexpr int kSixteenRows = 16 * L::kStride * static_cast<int>(sizeof(bf16));
  const int lane_ = static_cast<int>(threadIdx.x) % 32;
  bf16 *q_, *k_, *v_;
};

/// A window and two heads a block. Reads 6 and writes 2 bytes a value of `out`, and 8 bytes of angles a pair once for
/// two heads; 256 FLOPs a value. Measured on an H200 (copy 4.0 TB/s), 24,576 rows of 16 heads of 80 in windows of 64:
/// 91 us, of which the loads and stores alone take 71 and the rotation 12. Warps of 32 rows, one head a block and heads
/// in turn through two stages gained nothing (94, 90 and 100 us), nor did the last windows first.
template <int D>
__global__ void __launch_bounds__(kThreads, kBlocks) window_kernel(const __grid_constant__ WindowArgs args) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto* shared = reinterpret_cast<bf16*>(raw);
  const auto item = static_cast<int>(blockIdx.x);
  const int head = item % args.groups * kBlockHeads;
  const Place place{args.windows[item / args.groups], head, min(kBlockHeads, args.heads - head)};
  const int count = place.window.count;
  load_part<D>(args, place, 0, shared);
  load_part<D>(args, place, 1, shared);
  load_part<D>(args, place, 2, shared);
  Angles<D> angles;
  angles.load(args, place.window);
  cp_async_wait<1>();
  __syncthreads();
  angles.turn(place.window, shared);
  cp_async_wait<0>();
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_head = warp * kWarpRows / kRows;
  const int first = warp * kWarpRows % kRows;
  if (warp_head >= place.heads || first >= count) return;
  Warp<D> mine(shared, warp_head, first);
  mine.attend(args.scale_log2, count);
  mine.send(args.out + (place.window.first + first) * args.out_stride + (head + warp_head) * D, args.out_stride,
            count - first);
}

template <int D>
void launch(const Context& context, const WindowArgs& args, std::int64_t blocks) {
  constexpr int kBytes = Layout<D>::kBytes;
  allow_shared(window_kernel<D>, kBytes);
  window_kernel<D><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream_of(context)>>>(args);
  check_launch("attention in windows");
}

bool is_windows(const AttentionPlan& plan) {
  if (std::dynamic_pointer_cast<DeviceWindows>(plan.prepared)) return true;  // seen before: once a tower layer
  for (const QueryBlock& block : plan.blocks) {
    if (block.range_end != block.range_begin + 1 || block.step != 1 || block.count > kRows) return false;
    const KeyRange& range = plan.ranges[static_cast<std::size_t>(block.range_begin)];
    const bool is_all = !range.causal && range.reach == std::numeric_limits<std::int32_t>::max();
    if (!is_all || range.step != 1 || range.first != block.first || range.count != block.count) return false;
  }
  return plan.seeds.empty();
}

std::shared_ptr<const DeviceWindows> device_windows(const Context& context, const AttentionPlan& plan) {
  if (auto kept = std::dynamic_pointer_cast<DeviceWindows>(plan.prepared)) return kept;
  std::vector<Window> windows;
  for (const QueryBlock& block : plan.blocks)
    if (block.count > 0) windows.push_back({block.first, block.count});
  auto made = std::make_shared<DeviceWindows>();
  made->count = static_cast<std::int64_t>(windows.size());
  made->windows = to_device(context, windows);
  plan.prepared = made;
  return made;
}

}  // namespace

bool rope_attention_takes(const Context& context, const RopeAttentionParams& p) {
  if (p.head_dim != 64 && p.head_dim != 80) return false;
  if (p.qkv.dtype != DType::kBF16 || p.out.dtype != DType::kBF16) return false;
  if (!has_units(p.qkv) || !has_units(p.out) || !is_aligned_16(p.cos) || !is_aligned_16(p.sin)) return false;
  return context.cuda->smem_bytes >= Layout<80>::kBytes && is_windows(*p.plan);
}

void rope_attention(const Context& context, const RopeAttentionParams& p) {
  PUREKV_ASSERT(p.scale > 0);
  const std::shared_ptr<const DeviceWindows> windows = device_windows(context, *p.plan);
  if (windows->count == 0) return;
  const WindowArgs args{.qkv = static_cast<const bf16*>(p.qkv.data),
                        .out = static_cast<bf16*>(p.out.data),
                        .qkv_stride = p.qkv.stride,
                        .out_stride = p.out.stride,
                        .cos = p.cos,
                        .sin = p.sin,
                        .windows = windows->windows.as<Window>(),
                        .heads = static_cast<std::int32_t>(p.heads),
                        .groups = static_cast<std::int32_t>(ceil_div(p.heads, kBlockHeads)),
                        .scale_log2 = p.scale * std::numbers::log2e_v<float>};
  const std::int64_t blocks = windows->count * args.groups;
  if (p.head_dim == 64)
    launch<64>(context, args, blocks);
  else
    launch<80>(context, args, blocks);
}

}  // namespace purekv::cuda
