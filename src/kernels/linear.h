#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// out = x W^T (+ bias) (+ out where `accumulate`).
struct LinearParams {
  ConstMatrixView x;            ///< [rows, in] float32
  ConstMatrixView weight;       ///< [out, in] f32, bf16 or f16, as the file holds it
  const float* bias = nullptr;  ///< [out] or null
  MatrixView out;               ///< [rows, out] float32
  bool accumulate = false;      ///< adds to what `out` holds: the residual stream
};

/// Matrix product with a checkpoint's weight. context.compute = kF32: operands as they are, float32
/// accumulation; kBF16 (with bf16 weights): x is rounded to bf16, accumulation stays float32.
/// 2 rows in out FLOPs; reads in out weight elements once a call (few rows) or once a row block.
/// No copy of a weight outlives the call. Throws Error(kInternal) on shapes that do not fit.
void linear(const Context& context, const LinearParams& params);

}  // namespace purekv
