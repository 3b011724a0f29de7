#include "kernels/activation.h"

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cpu/rows_tile.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void swiglu(const Context& context, const MatrixView& gate, const ConstMatrixView& up) {
  PUREKV_ASSERT(gate.rows == up.rows && gate.cols == up.cols);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::swiglu(context, gate, up);
  PUREKV_ASSERT(gate.dtype == DType::kF32 && up.dtype == DType::kF32);
  const RowsIsa& isa = rows_isa();
  // An exponential and a division cost several times what a plain value does.
  for_rows(context.threads, gate.rows, 4 * gate.cols,
           [&](std::int64_t r) { isa.swiglu(gate.row<float>(r), up.row<float>(r), gate.cols); });
}

void gelu(const Context& context, const MatrixView& x) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::gelu(context, x);
  PUREKV_ASSERT(x.dtype == DType::kF32);
  const RowsIsa& isa = rows_isa();
  for_rows(context.threads, x.rows, 4 * x.cols, [&](std::int64_t r) { isa.gelu(x.row<float>(r), x.cols); });
}

}  // namespace purekv
