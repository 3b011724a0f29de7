#include "kernels/gather.h"

#include <cstring>

#include "kernels/cpu/rows_parallel.h"

namespace purekv {

void gather_rows(const Context& context, const GatherParams& params) {
  const GatherParams& p = params;
  const auto* in = static_cast<const std::byte*>(p.in);
  auto* out = static_cast<std::byte*>(p.out);
  for_rows(context.threads, p.count, p.row_bytes, [&](std::int64_t i) {
    std::memcpy(out + i * p.row_bytes, in + p.rows[i] * p.row_bytes, static_cast<std::size_t>(p.row_bytes));
  });
}

}  // namespace purekv
