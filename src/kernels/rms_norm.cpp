#include "kernels/rms_norm.h"

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cpu/rows_tile.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void rms_norm(const Context& context, const RmsNormParams& params) {
  const RmsNormParams& p = params;
  PUREKV_ASSERT(p.x.rows == p.out.rows && p.x.cols == p.out.cols && p.x.cols > 0);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::rms_norm(context, p);
  PUREKV_ASSERT(p.x.dtype == DType::kF32 && p.out.dtype == DType::kF32);
  const RowsIsa& isa = rows_isa();
  for_rows(context.threads, p.x.rows, p.x.cols,
           [&](std::int64_t r) { isa.rms_norm(p.x.row<float>(r), p.weight, p.x.cols, p.eps, p.out.row<float>(r)); });
}

}  // namespace purekv
