#include "kernels/rope_attention.h"

#include "base/fail.h"
#include "kernels/attention.h"
#include "kernels/cuda/ops.h"
#include "kernels/rope.h"

namespace purekv {
namespace {

void rotate(const Context& context, const RopeAttentionParams& p) {
  const MatrixView turned = p.qkv.columns(0, 2 * p.heads * p.head_dim);
  // Keys are turned as queries are: all are "queries in place" here.
  rope_split(context, {.shape = {2 * p.heads, 0, p.head_dim},
                       .qkv = turned,
                       .cos = p.cos,
                       .sin = p.sin,
                       .q = turned,
                       .kv_dtype = p.qkv.dtype});
}

KvView keys_and_values(const RopeAttentionParams& p) {
  const std::int64_t hidden = p.heads * p.head_dim;
  KvView view{.dtype = p.qkv.dtype, .heads = {}};
  for (std::int64_t h = 0; h < p.heads; ++h)
    view.heads.push_back({.k = p.qkv.columns(hidden + h * p.head_dim, p.head_dim).data,
                          .v = p.qkv.columns(2 * hidden + h * p.head_dim, p.head_dim).data,
                          .rows = p.qkv.rows,
                          .stride = p.qkv.stride});
  return view;
}

}  // namespace

void rope_attention(const Context& context, const RopeAttentionParams& params) {
  const RopeAttentionParams& p = params;
  const std::int64_t hidden = p.heads * p.head_dim;
  PUREKV_ASSERT(p.qkv.cols == 3 * hidden && p.out.cols == hidden && p.out.rows == p.qkv.rows && p.plan != nullptr);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda && cuda::rope_attention_takes(context, p))
      return cuda::rope_attention(context, p);
  rotate(context, p);
  attention(context, {.shape = {p.heads, p.heads, p.head_dim},
                      .scale = p.scale,
                      .q = p.qkv.columns(0, hidden),
                      .cached = {},
                      .fresh = keys_and_values(p),
                      .plan = p.plan,
                      .out = p.out});
}

}  // namespace purekv
