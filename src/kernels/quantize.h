#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Rows to e4m3, each with the scale that takes its largest absolute value to 448 (1 for a row of zeros, or
/// of less than 5e-36: such a scale has no finite inverse).
struct QuantizeParams {
  ConstMatrixView in;       ///< [rows, cols] bf16 or float32
  MatrixView out;           ///< [rows, cols] fp8
  float* scales = nullptr;  ///< [rows]: in = out * scale
};

/// Reads `in` once (rows of more than 24,576 columns twice, the second time from the cache), writes one byte an
/// element. NaN stays NaN, and makes its row's scale NaN.
void quantize_rows(const Context& context, const QuantizeParams& params);

}  // namespace purekv
