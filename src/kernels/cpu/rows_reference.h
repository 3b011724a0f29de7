#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/activation.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace purekv {

/// Element (row, column) of a stored matrix at any byte alignment, widened.
inline float stored_element(const ConstMatrixView& m, std::int64_t row, std::int64_t column) {
  const std::int64_t at = row * m.stride + column;
  if (m.dtype == DType::kF32) return load_element<float>(m.data, at);
  if (m.dtype == DType::kBF16) return to_float(load_element<BFloat16>(m.data, at));
  return to_float(load_element<Float16>(m.data, at));
}

/// The plain twins, in double precision: what the tests hold the kernels against.
void linear_reference(const Context& context, const LinearParams& params);
void rms_norm_reference(const RmsNormParams& params);
void swiglu_reference(const MatrixView& gate, const ConstMatrixView& up);
void gelu_reference(const MatrixView& x);
void rope_split_reference(const RopeSplitParams& params);

}  // namespace purekv
