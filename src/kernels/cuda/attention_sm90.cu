#include "kernels/cuda/attention_sm90.h"

#include <algorithm>

#include "base/fail.h"
#include "kernels/cuda/attention_sm90_consumer.cuh"
#include "kernels/cuda/attention_sm90_merge.h"
#include "kernels/cuda/attention_sm90_producer.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tensor_map.h"

namespace purekv::cuda {
namespace sm90 {

/// A persistent block a multiprocessor: one producer warp, two consumer warpgroups. A step is 128 packed rows x 128
/// keys: 8.4 MFLOP (D = 128) on 64 KiB of K and V, read from L2 once for all query heads of the group. Q is read and
/// the output written once, 256 bytes a row and head. Shared memory: Layout<D>.
/// Measured on one power-limited H100, 28/4 heads, D = 128: 591 TFLOP/s causal at 16k rows; a step of both warpgroups
/// takes 2870 cycles, of which the products need 2048 at the peak rate.
template <int D>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char raw[];
  const Shared<D> shared(raw);
  if (threadIdx.x == 0) {
    shared.init_barriers();
    hopper::prefetch_map(&params.q);
  }
  __syncthreads();
  // 128 x 56 + 256 x 224 registers, of 168 x 384 at the start.
  if (threadIdx.x < 128) {
    hopper::give_registers<56>();
    if (threadIdx.x < 32) Producer<D>(params, shared).run();
  } else {
    hopper::take_registers<224>();
    Consumer<D>(params, shared).run();
  }
}

}  // namespace sm90

namespace {

using sm90::Params;

bool has_unit_steps(const AttentionPlan& plan) {
  for (const QueryBlock& block : plan.blocks)
    if (block.step != 1) return false;
  for (const KeyRange& range : plan.ranges)
    if (range.step != 1) return false;
  return true;
}

void make_maps(const AttentionParams& p, Params& to) {
  const HeadShape& shape = p.shape;
  to.q = make_tensor_map(p.q.data, DType::kBF16, shape.head_dim, {shape.heads, shape.head_dim}, {p.q.rows, p.q.stride},
                         shape.group(), to.tokens);
  const Extent out_heads{shape.heads, shape.head_dim};
  const Extent out_rows{p.out.rows, p.out.stride};
  to.out = make_tensor_map(p.out.data, DType::kBF16, shape.head_dim, out_heads, out_rows, shape.group(), to.tokens);
  to.out_row = make_tensor_map(p.out.data, DType::kBF16, shape.head_dim, out_heads, out_rows, shape.group(), 1);
  const KvHeadView& head = p.fresh.heads[0];
  const Extent rows{head.rows, head.stride};
  const Extent keys{shape.kv_heads, head_stride(p.fresh, &KvHeadView::k)};
  const Extent values{shape.kv_heads, head_stride(p.fresh, &KvHeadView::v)};
  for (int i = 0; i < sm90::kBoxes; ++i) {
    to.k[i] = make_tensor_map(head.k, DType::kBF16, shape.head_dim, rows, keys, 8 << i, 1);
    to.v[i] = make_tensor_map(head.v, DType::kBF16, shape.head_dim, rows, values, 8 << i, 1);
  }
}

template <int D>
void launch(const Context& context, const Params& params) {
  constexpr std::size_t kBytes = sm90::Layout<D>::kTaken;
  static const bool allowed = (allow_shared(sm90::attention_kernel<D>, kBytes), true);
  static_cast<void>(allowed);
  const int blocks = std::min(context.cuda->sms, params.items);
  sm90::attention_kernel<D><<<blocks, sm90::kThreads, kBytes, stream_of(context)>>>(params);
  check_launch("attention_sm90");
}

/// Columns of the compiled kernel that holds head_dim; the rest is zeros that the copy engine fills in.
int padded_dim(std::int64_t head_dim) { return head_dim <= 64 ? 64 : head_dim <= 80 ? 80 : head_dim <= 96 ? 96 : 128; }

}  // namespace

bool attention_sm90_takes(const Context& context, const AttentionParams& p) {
  const HeadShape& shape = p.shape;
  if (context.cuda == nullptr || context.cuda->capability != 90 || context.cuda->smem_bytes < sm90::Layout<128>::kTaken)
    return false;
  if (p.plan == nullptr || p.fresh.heads.empty() || !p.cached.heads.empty() || !(p.scale > 0)) return false;
  if (p.q.dtype != DType::kBF16 || p.out.dtype != DType::kBF16 || p.fresh.dtype != DType::kBF16) return false;
  if (shape.head_dim % 8 != 0 || shape.head_dim > 128 || shape.group() > 16) return false;
  if (p.q.stride % 8 != 0 || p.out.stride % 8 != 0 || !is_box_aligned(p.q.data) || !is_box_aligned(p.out.data))
    return false;
  if (p.q.rows >= sm90::kFar / 2 || p.fresh.heads[0].rows >= sm90::kFar / 2) return false;
  return is_one_tensor(p.fresh, shape.head_dim) && has_unit_steps(*p.plan);
}

void attention_sm90(const Context& context, const AttentionParams& p) {
  const HeadShape& shape = p.shape;
  Params to{};
  to.kv_heads = static_cast<std::int32_t>(shape.kv_heads);
  to.group = static_cast<std::int32_t>(shape.group());
  to.head_dim = static_cast<std::int32_t>(shape.head_dim);
  to.tokens = sm90::kWarpgroupRows / to.group;
  // Half of L2 is what K and V of all heads may take before heads go one after the other.
  const std::int64_t key_bytes = 4 * shape.head_dim * shape.kv_heads;
  const auto tiles = sm90::device_tiles(
      context, *p.plan,
      {.tile_rows = to.tokens * sm90::kConsumers,
       .kv_heads = to.kv_heads,
       .sms = context.cuda->sms,
       .long_keys = static_cast<std::int32_t>(static_cast<std::int64_t>(context.cuda->l2_bytes) / (2 * key_bytes))});
  to.tiles = tiles->tiles.as<const sm90::AttentionTile>();
  to.segments = tiles->segments.as<const sm90::KeySegment>();
  to.next = tiles->next.as<std::int32_t>();
  to.items = tiles->tile_count * to.kv_heads;
  to.tile_count = tiles->tile_count;
  to.interleaved = tiles->interleaved;
  // Every block has a first item of its own.
  to.rounds = std::max(1, (to.items - tiles->shared) / context.cuda->sms);
  if (to.items == 0) return;
  to.scale_log2 = p.scale * 1.44269504F;
  to.lse = p.lse;
  to.lse_stride = p.q.rows;
  make_maps(p, to);
  const int dims = padded_dim(shape.head_dim);
  const std::int64_t partial_rows = std::int64_t{tiles->slots} * to.kv_heads * sm90::kSlots;
  const Buffer partial(context, partial_rows * dims * static_cast<std::int64_t>(sizeof(float)));
  const Buffer sums(context, partial_rows * static_cast<std::int64_t>(sizeof(float2)));
  to.partial = partial.as<float>();
  to.partial_sums = sums.as<float2>();
  cuda_check(cudaMemsetAsync(to.next, 0, sizeof(std::int32_t), stream_of(context)), "clearing the tile counter");
  if (dims == 64)
    launch<64>(context, to);
  else if (dims == 80)
    launch<80>(context, to);
  else if (dims == 96)
    launch<96>(context, to);
  else
    launch<128>(context, to);
  if (tiles->split_count > 0)
    sm90::merge_partials(context, {.splits = tiles->splits.as<const sm90::SplitRows>(),
                                   .split_count = tiles->split_count,
                                   .kv_heads = to.kv_heads,
                                   .group = to.group,
                                   .head_dim = to.head_dim,
                                   .dims = dims,
                                   .tokens = to.tokens,
                                   .partial = to.partial,
                                   .sums = to.partial_sums,
                                   .out = static_cast<__nv_bfloat16*>(p.out.data),
                                   .out_stride = p.out.stride,
                                   .lse = to.lse,
                                   .lse_stride = to.lse_stride});
}

}  // namespace purekv::cuda
