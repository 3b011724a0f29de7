#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// gate = silu(gate) * up, elementwise; both [rows, cols] context.activation().
void swiglu(const Context& context, const MatrixView& gate, const ConstMatrixView& up);

/// x = x * Phi(x), the exact erf form; [rows, cols] context.activation().
void gelu(const Context& context, const MatrixView& x);

}  // namespace purekv
