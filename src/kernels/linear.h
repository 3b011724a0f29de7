#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// A checkpoint's linear layer as the kernels read it.
struct LinearOperand {
  ConstMatrixView weight;         ///< [out, in]; f32, bf16 or f16 as the file holds it; CUDA: bf16 or fp8
  const float* bias = nullptr;    ///< [out] or null
  const void* bias16 = nullptr;   ///< CUDA: the bias in bf16 too, as a product that writes bf16 reads it
  const float* scales = nullptr;  ///< [out] fp8 only: weight = e4m3 * scale of its row
};

/// x = rms_norm(x) before the product, so that few rows need no pass of their own.
struct NormOperand {
  const float* weight = nullptr;  ///< [in]; null: x as it is
  float eps = 1e-6F;
  MatrixView work;  ///< [rows, in] context.activation(): where the normed rows may be left
};

/// out = x W^T (+ bias) (+ out where `accumulate`).
struct LinearParams {
  ConstMatrixView x;  ///< [rows, in] float32, or context.activation()
  NormOperand norm;
  LinearOperand w;
  MatrixView out;           ///< [rows, out] float32 (a decode step's residual stream, logits), or context.activation()
  bool accumulate = false;  ///< adds to what `out` holds: a residual stream
};

/// Matrix product with a checkpoint's weight. context.compute = kF32: operands as they are, float32
/// accumulation; kBF16 (with bf16 weights): x is rounded to bf16, accumulation stays float32. fp8 weights: x is scaled
/// by its row's largest absolute value and rounded to e4m3; up to 16 rows of it stay bf16. 2 rows in out FLOPs; reads
/// in out weight elements once a call (few rows) or once a row block. No copy of a weight outlives the call. Throws
/// Error(kInternal) on shapes that do not fit.
void linear(const Context& context, const LinearParams& params);

/// out = silu(x G^T + g) * (x U^T + u), the gated half of a SwiGLU MLP.
struct GatedLinearParams {
  ConstMatrixView x;  ///< [rows, in]
  NormOperand norm;
  LinearOperand gate, up;  ///< [ffn, in]
  MatrixView out;          ///< [rows, ffn] context.activation()
  MatrixView work;         ///< [rows, ffn] the same: holds x U^T where it has to be stored; a GPU's has no memory where
                           ///< one kernel makes both halves (mlp.h)
};

void gated_linear(const Context& context, const GatedLinearParams& params);

}  // namespace purekv
