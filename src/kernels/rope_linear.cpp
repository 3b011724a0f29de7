#include "kernels/rope_linear.h"

#include "base/fail.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void rope_linear(const Context& context, const RopeLinearParams& params) {
  const RopeLinearParams& p = params;
  const HeadShape& shape = p.to.shape;
  PUREKV_ASSERT(p.w.weight.rows == shape.qkv_cols() && p.w.weight.cols == p.x.cols);
  PUREKV_ASSERT(p.to.q.rows == p.x.rows && p.to.q.cols == shape.heads * shape.head_dim);
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
