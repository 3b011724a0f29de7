#pragma once

#include "kernels/linear.h"

namespace purekv::cuda {

/// out = silu(x G^T + g) * (x U^T + u) in one kernel of sm_90a.
struct GatedProduct {
  ConstMatrixView x;                ///< [rows, in] bf16 or fp8, the type of the weights
  const float* x_scales = nullptr;  ///< [rows] fp8 only
  LinearOperand gate, up;           ///< [ffn, in]; float32 biases
  MatrixView out;                   ///< [rows, ffn] bf16
};

/// Whether there are rows enough to be worth it, everything on boundaries of 16 bytes.
bool gated_sm90_takes(const Context& context, const GatedProduct& product);

void gated_sm90(const Context& context, const GatedProduct& product);

}  // namespace purekv::cuda
