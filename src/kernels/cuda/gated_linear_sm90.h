#pragma once

#include "kernels/cuda/join_exponents.h"
#include "kernels/linear.h"

namespace purekv::cuda {

/// out = silu(x G^T + g) * (x U^T + u) in one kernel of sm_90a.
struct GatedProduct {
  ConstMatrixView x;                ///< [rows, in] bf16 or fp8, the type of the weights
  const float* x_scales = nullptr;  ///< [rows] fp8 only
  LinearOperand gate, up;           ///< [ffn, in]; float32 biases
  MatrixView out;                   ///< [rows, ffn] bf16, or fp8 where x is
  PieceExponents exponents = {};    ///< where out is fp8: gated_sm90_pieces(ffn) a row
};

/// Whether there are rows enough to be worth it, everything on boundaries of 16 bytes.
bool gated_sm90_takes(const Context& context, const GatedProduct& product);

/// To fp8: no row is known whole when its columns are stored. The first 192 are scaled to leave room for values 16
/// times as large, the others take the exponent of these, or a larger one of their own where they need it.
/// join_exponents() brings a row to one.
void gated_sm90(const Context& context, const GatedProduct& product);

/// Pieces of a row that the kernel stores, the last of them perhaps past its end.
std::int64_t gated_sm90_pieces(std::int64_t ffn);

}  // namespace purekv::cuda
