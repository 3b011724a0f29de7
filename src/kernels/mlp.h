#pragma once

#include "kernels/linear.h"

namespace purekv {

/// out += down(silu(x G^T + g) * (x U^T + u)), x = rms_norm(out) where a norm is given.
struct MlpParams {
  ConstMatrixView x;  ///< [rows, hidden] float32, or context.activation()
  NormOperand norm;
  LinearOperand gate, up;         ///< [ffn, hidden]
  LinearOperand down;             ///< [hidden, ffn]
  MatrixView gate_work, up_work;  ///< [rows, ffn] context.activation(); up_work only where mlp_stores_up
  MatrixView out;                 ///< [rows, hidden] the residual stream; may be x
};

/// The SwiGLU MLP of a block: 6 rows hidden ffn FLOPs. With fp8 weights what lies between the products is scaled by
/// rows: by a row's largest value, or by a power of two where one kernel makes many rows of the gated half.
void mlp(const Context& context, const MlpParams& params);

/// Whether x U^T of so many rows has to be stored: false where one kernel makes both halves (Hopper, some hundred
/// rows).
bool mlp_stores_up(const Context& context, std::int64_t rows, std::int64_t hidden, std::int64_t ffn);

}  // namespace purekv
