#include "kernels/permute_rows.h"

#include <cstring>

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void permute_rows(const Context& context, const PermuteRowsParams& p) {
  PUREKV_ASSERT(p.in.dtype == p.out.dtype && p.in.cols == p.out.cols && p.out.rows % p.group == 0);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::permute_rows(context, p);
  const auto bytes = static_cast<std::size_t>(p.in.cols) * size_of(p.in.dtype);
  for_rows(context.threads, p.out.rows, p.out.cols, [&](std::int64_t r) {
    const std::int64_t from = p.rows[r / p.group] * p.group + r % p.group;
    std::memcpy(p.out.slice(r, 1).data, p.in.slice(from, 1).data, bytes);
  });
}

}  // namespace purekv
