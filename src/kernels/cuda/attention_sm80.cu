#include "kernels/cuda/attention_sm80.h"

#include <numbers>

#include "base/fail.h"
#include "kernels/cuda/attention_sm80_kernel.cuh"
#include "kernels/cuda/launch.h"

namespace purekv::cuda {
namespace sm80 {
namespace {

constexpr int kMergeThreads = 128;

/// One query row and head of a split item a block. Reads pieces * (head_dim + 2) floats, writes the row:
/// out = sum w_i out_i / sum w_i sum_i with w_i = 2^(top_i - top), pieces in their order.
__global__ void __launch_bounds__(kMergeThreads)
    merge_partials(const __grid_constant__ AttentionArgs args, const MergeItem* merges) {
  __shared__ float weight[kMostPieces];
  const MergeItem item = merges[blockIdx.z];
  const auto packed = static_cast<std::int64_t>(blockIdx.x);
  const std::int64_t piece_rows = static_cast<std::int64_t>(item.count) * args.group;
  if (packed >= piece_rows) return;
  const std::int64_t head = blockIdx.y * static_cast<std::int64_t>(args.group) + packed % args.group;
  const std::int64_t row = item.first + packed / args.group * item.step;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.y) * args.partial_rows + item.begin + packed;
  const float2* sums = args.partial_sum + at;
  float top = -INFINITY;  // every thread reads all of them: at most 512 pairs, and no reduction
#pragma unroll 8
  for (int i = 0; i < item.pieces; ++i) top = fmaxf(top, sums[i * piece_rows].x);
  top = finite_top(top);
  for (auto i = static_cast<int>(threadIdx.x); i < item.pieces; i += kMergeThreads)
    weight[i] = exp2_fast(sums[i * piece_rows].x - top);
  __syncthreads();
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < item.pieces; ++i) sum += weight[i] * sums[i * piece_rows].y;
  const float inverse = sum == 0 ? 0 : 1 / sum;
  for (auto column = static_cast<int>(threadIdx.x); column < args.head_dim; column += kMergeThreads) {
    const float* out = args.partial_out + at * args.head_dim + column;
    float x = 0;
#pragma unroll 8
    for (int i = 0; i < item.pieces; ++i) x += weight[i] * out[i * piece_rows * args.head_dim];
    args.out[row * args.out_stride + head * args.head_dim + column] = __float2bfloat16(x * inverse);
  }
  if (args.lse != nullptr && threadIdx.x == 0)
    args.lse[head * args.rows + row] = (top + log2f(sum)) * std::numbers::ln2_v<float>;
}

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

const bf16* elements(const void* p) { return static_cast<const bf16*>(p); }

/// KV heads [first, first + 32) of a call.
void fill_heads(const AttentionParams& p, std::int64_t first, AttentionArgs& args) {
  args.first_head = static_cast<std::int32_t>(first);
  args.heads = static_cast<std::int32_t>(std::min<std::int64_t>(kMostHeads, p.shape.kv_heads - first));
  bool aligned = p.shape.head_dim % 8 == 0;
  const auto check = [&](const KvHeadView& head) {
    aligned = aligned && is_aligned(head.k) && is_aligned(head.v) && head.stride % 8 == 0;
  };
  for (std::int32_t h = 0; h < args.heads; ++h) {
    HeadKeys& keys = args.keys[h];
    keys = {};
    const auto at = static_cast<std::size_t>(first + h);
    if (!p.fresh.heads.empty()) {
      const KvHeadView& head = p.fresh.heads[at];
      check(head);
      keys.source[0] = {elements(head.k), elements(head.v), head.stride};
    }
    if (!p.cached.heads.empty()) {
      const KvHeadView& head = p.cached.heads[at];
      check(head);
      keys.source[1] = {elements(head.k), elements(head.v), head.stride};
      keys.cached_rows = static_cast<std::int32_t>(head.rows);
    }
  }
  args.key_vectors = aligned;
}

AttentionArgs make_args(const AttentionParams& p, const DeviceTiles& tiles) {
  const bool whole_units = p.shape.head_dim % 8 == 0;
  AttentionArgs args;
  args.q = elements(p.q.data);
  args.out = static_cast<bf16*>(p.out.data);
  args.lse = p.lse;
  args.q_stride = p.q.stride;
  args.out_stride = p.out.stride;
  args.rows = p.q.rows;
  args.items = tiles.item_list.as<TileItem>();
  args.ranges = tiles.ranges.as<KeyRange>();
  args.seeds = tiles.seeds.as<int2>();
  args.partial_rows = tiles.partial_rows;
  args.head_dim = static_cast<std::int32_t>(p.shape.head_dim);
  args.group = static_cast<std::int32_t>(p.shape.group());
  args.scale_log2 = p.scale * std::numbers::log2e_v<float>;
  args.q_vectors = whole_units && is_aligned(p.q.data) && p.q.stride % 8 == 0;
  args.out_vectors = whole_units && is_aligned(p.out.data) && p.out.stride % 8 == 0;
  return args;
}

template <int kDim>
void launch_tiles(const Context& context, const AttentionParams& p, const DeviceTiles& tiles, AttentionArgs& args) {
  using T = AttentionTraits<kDim>;
  allow_shared(attend_tiles<kDim>, T::kSharedBytes);
  for (std::int64_t first = 0; first < p.shape.kv_heads; first += kMostHeads) {
    fill_heads(p, first, args);
    const auto blocks = static_cast<unsigned>(tiles.items * args.heads);
    attend_tiles<kDim><<<blocks, T::kThreads, T::kSharedBytes, stream_of(context)>>>(args);
    check_launch("attention");
  }
}

void check_params(const AttentionParams& p) {
  const std::int64_t width = p.shape.heads * p.shape.head_dim;
  const auto heads = static_cast<std::size_t>(p.shape.kv_heads);
  PUREKV_ASSERT(p.q.dtype == DType::kBF16 && p.out.dtype == DType::kBF16);
  PUREKV_ASSERT(p.q.cols == width && p.out.cols == width && p.out.rows == p.q.rows && p.scale > 0);
  PUREKV_ASSERT(p.shape.kv_heads > 0 && p.shape.heads % p.shape.kv_heads == 0 && p.shape.group() <= kTileRows);
  PUREKV_ASSERT(p.shape.head_dim % 2 == 0 && p.shape.head_dim > 0 && p.shape.head_dim <= 256);
  PUREKV_ASSERT(p.fresh.heads.empty() || (p.fresh.heads.size() == heads && p.fresh.dtype == DType::kBF16));
  PUREKV_ASSERT(p.cached.heads.empty() || (p.cached.heads.size() == heads && p.cached.dtype == DType::kBF16));
  PUREKV_ASSERT(p.fresh.heads.empty() == (p.plan == nullptr));
}

}  // namespace
}  // namespace sm80

void attention_sm80(const Context& context, const AttentionParams& params) {
  using namespace sm80;  // NOLINT(google-build-using-namespace): the kernel's own parts
  check_params(params);
  if (params.q.rows == 0) return;
  const std::shared_ptr<const DeviceTiles> tiles = device_tiles(context, params);
  AttentionArgs args = make_args(params, *tiles);
  const std::int64_t partials = params.shape.kv_heads * tiles->partial_rows;
  const Buffer partial_out(context, partials * params.shape.head_dim * static_cast<std::int64_t>(sizeof(float)));
  const Buffer partial_sum(context, partials * static_cast<std::int64_t>(sizeof(float2)));
  args.partial_out = partial_out.as<float>();
  args.partial_sum = partial_sum.as<float2>();
  const std::int64_t dim = params.shape.head_dim;
  if (dim <= 64)
    launch_tiles<64>(context, params, *tiles, args);
  else if (dim <= 80)
    launch_tiles<80>(context, params, *tiles, args);
  else if (dim <= 96)
    launch_tiles<96>(context, params, *tiles, args);
  else if (dim <= 128)
    launch_tiles<128>(context, params, *tiles, args);
  else
    launch_tiles<256>(context, params, *tiles, args);
  if (tiles->merges == 0) return;
  const dim3 grid(static_cast<unsigned>(kTileRows / args.group * args.group),
                  static_cast<unsigned>(params.shape.kv_heads), static_cast<unsigned>(tiles->merges));
  merge_partials<<<grid, kMergeThreads, 0, stream_of(context)>>>(args, tiles->merge_list.as<MergeItem>());
  check_launch("attention");
}

}  // namespace purekv::cuda
