#pragma once

#include <limits>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

inline constexpr float kMostE4m3 = 448.0F;
/// Of a row's largest absolute value: below it the scale has no finite inverse.
inline constexpr float kLeastScaled = kMostE4m3 * std::numeric_limits<float>::min();

/// Rows to e4m3, each with the scale that takes its largest absolute value to kMostE4m3 (1 below kLeastScaled).
struct QuantizeParams {
  ConstMatrixView in;       ///< [rows, cols] bf16 or float32
  MatrixView out;           ///< [rows, cols] fp8
  float* scales = nullptr;  ///< [rows]: in = out * scale
};

/// Reads `in` once (rows of more than 24,576 columns twice, the second time from the cache), writes one byte an
/// element. NaN stays NaN, and makes its row's scale NaN.
void quantize_rows(const Context& context, const QuantizeParams& params);

}  // namespace purekv
