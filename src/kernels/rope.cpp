#include "kernels/rope.h"

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cpu/rows_tile.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

/// One row's part that becomes q, keys or values: `heads` heads from `in` to out + h * head_stride elements.
struct Part {
  const float* in;
  std::byte* out;
  std::int64_t heads, head_stride;
};

void store(const RowsIsa& isa, RopeRow row, const Part& part) {
  const std::int64_t size = row.bf16 ? 2 : 4;
  for (std::int64_t h = 0; h < part.heads; ++h) {
    row.x = part.in + h * row.dim;
    row.out = part.out + h * part.head_stride * size;
    isa.rope(row);
  }
}

}  // namespace

void rope_split(const Context& context, const RopeSplitParams& params) {
  const RopeSplitParams& p = params;
  const HeadShape& s = p.shape;
  PUREKV_ASSERT(p.qkv.cols == (s.heads + 2 * s.kv_heads) * s.head_dim && p.q.cols == s.heads * s.head_dim);
  PUREKV_ASSERT(p.q.rows == p.qkv.rows && s.head_dim % 2 == 0 && p.kv_dtype != DType::kF16);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::rope_split(context, p);
  PUREKV_ASSERT(p.qkv.dtype == DType::kF32 && p.q.dtype == DType::kF32);
  const RowsIsa& isa = rows_isa();
  const std::int64_t half = s.head_dim / 2;
  const auto size = static_cast<std::int64_t>(size_of(p.kv_dtype));
  for_rows(context.threads, p.qkv.rows, p.qkv.cols, [&](std::int64_t r) {
    const float* in = p.qkv.row<float>(r);
    RopeRow row{.cos = p.cos + r * half, .sin = p.sin + r * half, .dim = s.head_dim, .bf16 = false};
    store(isa, row, {in, reinterpret_cast<std::byte*>(p.q.row<float>(r)), s.heads, s.head_dim});
    row.bf16 = p.kv_dtype == DType::kBF16;
    in += s.heads * s.head_dim;
    const std::int64_t at = r * p.row_stride * size;
    store(isa, row, {in, static_cast<std::byte*>(p.keys) + at, s.kv_heads, p.head_stride});
    row.cos = row.sin = nullptr;
    in += s.kv_heads * s.head_dim;
    store(isa, row, {in, static_cast<std::byte*>(p.values) + at, s.kv_heads, p.head_stride});
  });
}

}  // namespace purekv
