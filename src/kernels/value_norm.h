#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/shape.h"
#include "device/context.h"
#include "flow/frame_table.h"
#include "flow/kv_view.h"

namespace purekv {

/// Norms of values (eq. 3 and docs/method.md).
struct ValueNormParams {
  HeadShape shape;
  KvView kv;                          ///< l rows
  const float* gram = nullptr;        ///< [heads, d, d], for `out` and `nov`; not needed beside `packed`
  const void* packed = nullptr;       ///< GramParams::packed of it, GPU only; null there: made of `gram` at every call
  const FrameTable* table = nullptr;  ///< for `nov`
  float* l2 = nullptr;                ///< [kv_heads, l] ||v||, or null
  float* out = nullptr;               ///< [kv_heads, l] mean_h ||W_o^h v||, or null
  float* nov = nullptr;  ///< [kv_heads, l] mean_h ||W_o^h (v - v of the same cell before)||; 0 in text; null: none
};

void value_norm(const Context& context, const ValueNormParams& params);

/// Bytes of GramParams::packed: 0 on the CPU.
std::int64_t packed_gram_bytes(const Context& context, const HeadShape& shape);

/// gram[h] = (W_o^h)^T W_o^h of one layer.
struct GramParams {
  HeadShape shape;
  ConstMatrixView w_o;            ///< [hidden, heads * head_dim] f32, bf16 or f16; CUDA: bf16 or fp8
  const float* scales = nullptr;  ///< [hidden] where w_o is fp8
  float* gram = nullptr;          ///< [heads, d, d]
  void* packed = nullptr;         ///< [packed_gram_bytes()] gram as a GPU's value_norm multiplies by it, or null
};

void gram(const Context& context, const GramParams& params);

}  // namespace purekv
