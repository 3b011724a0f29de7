#pragma once

#include "base/matrix.h"
#include "device/context.h"
#include "kernels/linear.h"

namespace purekv::cuda {

/// Rows that are computed and quantised in one pass, so that no bf16 copy of them is written and read again.
struct QuantizedRows {
  MatrixView out;           ///< [rows, cols] fp8
  float* scales = nullptr;  ///< [rows]
};

/// out * scale = rms_norm(x); x [rows, cols] float32 or bf16. Reads 4 or 2 bytes and writes 1 an element.
void rms_norm_quantize(const Context& context, const ConstMatrixView& x, const NormOperand& norm,
                       const QuantizedRows& rows);

/// out * scale = silu(gate) * up; both [rows, cols] bf16. Reads 4 bytes and writes 1 an element.
void swiglu_quantize(const Context& context, const ConstMatrixView& gate, const ConstMatrixView& up,
                     const QuantizedRows& rows);

}  // namespace purekv::cuda
