#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Rotate-half: dim j pairs with j + head_dim / 2. One table serves text (M-RoPE) and vision (2-D).
struct RopeParams {
  ConstMatrixView x;           ///< [rows, heads * head_dim] float32
  const float* cos = nullptr;  ///< [rows, head_dim / 2]
  const float* sin = nullptr;  ///< [rows, head_dim / 2]
  std::int64_t heads = 0, head_dim = 0;
  /// Where row r of head h goes: out + h * head_stride + r * row_stride elements, f32 or bf16.
  void* out = nullptr;  ///< may be x.data
  DType out_dtype = DType::kF32;
  std::int64_t head_stride = 0, row_stride = 0;
};

/// Rotates and stores; with null cos and sin only stores (values into the layer's cache scratch).
void rope_store(const Context& context, const RopeParams& params);

}  // namespace purekv
