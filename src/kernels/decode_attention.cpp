#include "kernels/decode_attention.h"

#include <cstddef>
#include <cstring>
#include <vector>

#include "base/fail.h"
#include "kernels/attention.h"
#include "kernels/cuda/ops.h"
#include "kernels/rope.h"

namespace purekv {
namespace {

/// One sequence: rotates, appends to every head, attends over what was there and the new row.
void attend_one(const Context& context, const DecodeAttentionParams& p, std::int64_t sequence) {
  const HeadShape& shape = p.shape;
  const std::int64_t half = shape.head_dim / 2;
  const std::int64_t bytes = shape.head_dim * static_cast<std::int64_t>(size_of(p.dtype));
  const std::int64_t wide = shape.heads * shape.head_dim;
  std::vector<float> q(static_cast<std::size_t>(wide));
  std::vector<std::byte> keys(static_cast<std::size_t>(shape.kv_heads * bytes));
  std::vector<std::byte> values(keys.size());
  const MatrixView q_view{q.data(), DType::kF32, 1, wide, wide};
  rope_split(context, {.shape = shape,
                       .qkv = p.qkv.slice(sequence, 1),
                       .cos = p.cos + sequence * half,
                       .sin = p.sin + sequence * half,
                       .q = q_view,
                       .keys = keys.data(),
                       .values = values.data(),
                       .kv_dtype = p.dtype,
                       .head_stride = shape.head_dim,
                       .row_stride = shape.head_dim});
  KvView cached{.dtype = p.dtype, .heads = {}};
  for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
    const KvRows& head = p.rows[sequence * shape.kv_heads + h];
    std::memcpy(static_cast<std::byte*>(head.k) + head.rows * bytes, keys.data() + h * bytes,
                static_cast<std::size_t>(bytes));
    std::memcpy(static_cast<std::byte*>(head.v) + head.rows * bytes, values.data() + h * bytes,
                static_cast<std::size_t>(bytes));
    cached.heads.push_back({.k = head.k, .v = head.v, .rows = head.rows + 1, .stride = shape.head_dim});
  }
  attention(context, {.shape = shape,
                      .scale = p.scale,
                      .q = q_view,
                      .cached = cached,
                      .fresh = {},
                      .plan = nullptr,
                      .out = p.out.slice(sequence, 1),
                      .lse = nullptr});
}

}  // namespace

std::int64_t decode_attention_work(const Context& context, const HeadShape& shape, std::int64_t sequences,
                                   std::int64_t most_rows) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::decode_attention_work(context, shape, sequences, most_rows);
  return 0;
}

void decode_attention(const Context& context, const DecodeAttentionParams& params) {
  const DecodeAttentionParams& p = params;
  const HeadShape& s = p.shape;
  PUREKV_ASSERT(s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_dim > 0 && s.head_dim % 2 == 0);
  PUREKV_ASSERT(p.qkv.cols == (s.heads + 2 * s.kv_heads) * s.head_dim && p.out.cols == s.heads * s.head_dim);
  PUREKV_ASSERT(p.out.rows == p.qkv.rows && p.dtype != DType::kF16);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::decode_attention(context, p);
  for (std::int64_t sequence = 0; sequence < p.qkv.rows; ++sequence) attend_one(context, p, sequence);
}

}  // namespace purekv
