#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

struct RmsNormParams {
  ConstMatrixView x;              ///< [rows, cols] float32, or context.activation()
  const float* weight = nullptr;  ///< [cols]
  float eps = 1e-6F;
  MatrixView out;  ///< [rows, cols] float32, or context.activation(); may be x where the types are equal
};

/// out = x / sqrt(mean(x^2) + eps) * weight, row by row, in float32.
void rms_norm(const Context& context, const RmsNormParams& params);

}  // namespace purekv
