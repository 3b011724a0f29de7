#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/shape.h"
#include "device/context.h"
#include "flow/kv_view.h"

namespace purekv {

/// One new row of each of several sequences, each over its own ragged cache rows and itself.
struct DecodeAttentionParams {
  HeadShape shape;
  float scale = 0;
  ConstMatrixView qkv;         ///< [sequences, (heads + 2 kv_heads) * head_dim] context.activation(), before RoPE
  const float* cos = nullptr;  ///< [sequences, head_dim / 2] of the new rows' positions
  const float* sin = nullptr;
  DType dtype = DType::kF32;     ///< of keys and values in the cache
  const KvRows* rows = nullptr;  ///< [sequences, kv_heads]
  std::int64_t most_rows = 0;    ///< no head holds more rows than this before the step; sizes the split
  MatrixView out;                ///< [sequences, heads * head_dim] context.activation()
  MatrixView work;               ///< float32, at least decode_attention_work() elements; the same at every call
};

/// Elements of `work` for so many sequences and rows.
std::int64_t decode_attention_work(const Context& context, const HeadShape& shape, std::int64_t sequences,
                                   std::int64_t most_rows);

/// Rotates q and k, writes the new key and value at KvRows::rows of every head (room for it is there; the count
/// is the caller's to raise), and attends over the old rows and the new one. Reads each K/V row once a KV head.
/// CUDA: `rows` and the old rows are read ahead; what is queued right before must not be a kernel that writes them.
void decode_attention(const Context& context, const DecodeAttentionParams& params);

}  // namespace purekv
