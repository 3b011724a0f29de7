#include "kernels/rope.h"

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cpu/rows_tile.h"

namespace purekv {

void rope_store(const Context& context, const RopeParams& params) {
  const RopeParams& p = params;
  PUREKV_ASSERT(p.x.dtype == DType::kF32 && p.x.cols == p.heads * p.head_dim);
  PUREKV_ASSERT(p.out_dtype != DType::kF16 && (p.cos == nullptr) == (p.sin == nullptr));
  PUREKV_ASSERT(p.cos == nullptr || p.head_dim % 2 == 0);
  const RowsIsa& isa = rows_isa();
  const std::int64_t half = p.head_dim / 2;
  const auto size = static_cast<std::int64_t>(size_of(p.out_dtype));
  for_rows(context.threads, p.x.rows, p.x.cols, [&](std::int64_t r) {
    RopeRow row{.cos = p.cos == nullptr ? nullptr : p.cos + r * half,
                .sin = p.sin == nullptr ? nullptr : p.sin + r * half,
                .dim = p.head_dim,
                .bf16 = p.out_dtype == DType::kBF16};
    for (std::int64_t h = 0; h < p.heads; ++h) {
      row.x = p.x.row<float>(r) + h * p.head_dim;
      row.out = static_cast<std::byte*>(p.out) + (h * p.head_stride + r * p.row_stride) * size;
      isa.rope(row);
    }
  });
}

}  // namespace purekv
