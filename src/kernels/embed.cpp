#include "kernels/embed.h"

#include <algorithm>

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cpu/rows_tile.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void embed(const Context& context, const EmbedParams& params) {
  const EmbedParams& p = params;
  PUREKV_ASSERT(p.table.cols == p.out.cols);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::embed(context, p);
  PUREKV_ASSERT(p.out.dtype == DType::kF32);
  PUREKV_ASSERT(std::all_of(p.ids, p.ids + p.out.rows, [&](std::int32_t id) { return id >= 0 && id < p.table.rows; }));
  const RowsIsa& isa = rows_isa();
  for_rows(context.threads, p.out.rows, p.out.cols, [&](std::int64_t r) {
    isa.widen(p.table.slice(p.ids[r], 1).data, p.table.dtype, p.out.cols, p.out.row<float>(r));
  });
}

}  // namespace purekv
