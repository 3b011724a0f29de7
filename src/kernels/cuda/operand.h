#pragma once

#include "base/matrix.h"
#include "device/buffer.h"
#include "kernels/linear.h"

namespace purekv::cuda {

/// x of a product in its weight's type, with what it takes to hold it, if it is not the caller's. The memory is
/// stream-ordered: it may go back to the pool as soon as the product is queued.
struct Operand {
  Matrix narrowed, quantized;
  Buffer scales;
  ConstMatrixView x;
};

/// Normed where asked, then rounded to bf16 or scaled to fp8.
Operand prepare(const Context& context, const ConstMatrixView& x, const NormOperand& norm, DType type);

/// Memory for fp8 rows and their scales.
Operand take_quantized(const Context& context, std::int64_t rows, std::int64_t cols);

void multiply(const Context& context, const Operand& operand, const LinearOperand& w, const MatrixView& out,
              bool accumulate);

/// Whether one kernel makes the gated half of an MLP of what `prepare` made of p.x.
bool fuses_gated(const Context& context, const Operand& operand, const GatedLinearParams& p);

/// Whether it can make e4m3 at once, in the memory of p.out: fp8 weights, ffn a multiple of 16, no gaps between rows.
bool quantizes_gated(const Context& context, const Operand& operand, const GatedLinearParams& p);

/// silu(x G^T) * (x U^T) in e4m3 as the next product takes it; its rows lie in the memory of p.out, without gaps.
Operand multiply_gated_quantized(const Context& context, const Operand& operand, const GatedLinearParams& p);

/// silu(x G^T) * (x U^T) of what `prepare` made of p.x: one kernel where there is one, else two products and SwiGLU.
void multiply_gated(const Context& context, const Operand& operand, const GatedLinearParams& p);

}  // namespace purekv::cuda
