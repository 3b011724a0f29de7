#pragma once

#include "kernels/rope_linear.h"

namespace purekv::cuda {

/// q, k, v = rotate(x W^T + b) in one kernel of sm_90a.
struct RopeProduct {
  ConstMatrixView x;                ///< [rows, in] bf16 or fp8, the type of the weights
  const float* x_scales = nullptr;  ///< [rows] fp8 only
  LinearOperand w;                  ///< [(heads + 2 kv_heads) * head_dim, in]; a float32 bias
  RopeSplitParams to;
};

/// Whether there are rows enough to be worth it, everything on boundaries of 16 bytes.
bool rope_sm90_takes(const Context& context, const RopeProduct& product);

void rope_sm90(const Context& context, const RopeProduct& product);

}  // namespace purekv::cuda
