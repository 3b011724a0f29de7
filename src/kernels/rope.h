#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/shape.h"
#include "device/context.h"

namespace purekv {

/// The rows of one fused projection, taken apart: queries and keys rotated, values as they are.
/// Rotate-half: dim j pairs with j + head_dim / 2. One table serves text (M-RoPE) and vision (2-D).
struct RopeSplitParams {
  HeadShape shape;
  ConstMatrixView qkv = {};    ///< [rows, (heads + 2 kv_heads) * head_dim] context.activation(): q, k, v
  const float* cos = nullptr;  ///< [rows, head_dim / 2]
  const float* sin = nullptr;  ///< [rows, head_dim / 2]
  MatrixView q;                ///< [rows, heads * head_dim] context.activation(); may be qkv's own first columns
  /// Row r of KV head h goes to keys (values) + h * head_stride + r * row_stride elements.
  void* keys = nullptr;
  void* values = nullptr;
  DType kv_dtype = DType::kF32;  ///< f32 or bf16
  std::int64_t head_stride = 0, row_stride = 0;
};

/// Rotates and stores: reads qkv once, writes each of its elements once. Without KV heads it only rotates queries.
void rope_split(const Context& context, const RopeSplitParams& params);

}  // namespace purekv
