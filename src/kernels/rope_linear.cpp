#include "kernels/rope_linear.h"

#include "base/fail.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void rope_linear(const Context& context, const RopeLinearParams& params) {
  const RopeLinearParams& p = params;
  const std::int64_t cols = (p.to.shape.heads + 2 * p.to.shape.kv_heads) * p.to.shape.head_dim;
  PUREKV_ASSERT(p.w.weight.rows == cols && p.w.weight.cols == p.x.cols && p.to.q.rows == p.x.rows);
  if (p.x.rows == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::rope_linear(context, p);
  RopeSplitParams to = p.to;
  const MatrixView qkv = p.work.slice(0, p.x.rows);
  to.qkv = qkv;
  linear(context, {.x = p.x, .norm = p.norm, .w = p.w, .out = qkv});
  rope_split(context, to);
}

bool rope_linear_stores(const Context& context, const HeadShape& shape, std::int64_t rows, std::int64_t in) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return !cuda::rope_in_one(context, shape, rows, in);
  return true;
}

}  // namespace purekv
