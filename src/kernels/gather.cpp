#include "kernels/gather.h"

#include <cstring>

#include "kernels/cpu/rows_parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void gather_rows(const Context& context, const GatherParams& p) {
  if (p.most_rows == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::gather_rows(context, p);
  const std::int64_t bytes = p.shape.head_dim * static_cast<std::int64_t>(size_of(p.dtype));
  const auto copy_row = [bytes](const void* from, std::int64_t source, void* to, std::int64_t target) {
    std::memcpy(static_cast<std::byte*>(to) + target * bytes, static_cast<const std::byte*>(from) + source * bytes,
                static_cast<std::size_t>(bytes));
  };
  for (std::int64_t h = 0; h < p.shape.kv_heads; ++h) {
    const KvRows& from = p.from[h];
    const KvRows& to = p.to[h];
    const std::int32_t* slots = p.slots == nullptr ? nullptr : p.slots + h * p.slot_stride;
    for_rows(context.threads, to.rows, 2 * bytes, [&](std::int64_t i) {
      const std::int64_t source = slots == nullptr ? i : slots[i];
      copy_row(from.k, source, to.k, i);
      copy_row(from.v, source, to.v, i);
    });
  }
}

}  // namespace purekv
