#include "kernels/cpu/rows_reference.h"

#include <cmath>
#include <vector>

namespace purekv {

void rms_norm_reference(const RmsNormParams& p) {
  for (std::int64_t r = 0; r < p.x.rows; ++r) {
    const float* x = p.x.row<float>(r);
    double square = 0;
    for (std::int64_t i = 0; i < p.x.cols; ++i) square += static_cast<double>(x[i]) * x[i];
    const double inverse = 1 / std::sqrt(square / static_cast<double>(p.x.cols) + p.eps);
    for (std::int64_t i = 0; i < p.x.cols; ++i)
      p.out.row<float>(r)[i] = static_cast<float>(x[i] * inverse * p.weight[i]);
  }
}

void swiglu_reference(const MatrixView& gate, const ConstMatrixView& up) {
  for (std::int64_t r = 0; r < gate.rows; ++r)
    for (std::int64_t i = 0; i < gate.cols; ++i) {
      float& x = gate.row<float>(r)[i];
      x = static_cast<float>(x / (1 + std::exp(-static_cast<double>(x))) * up.row<float>(r)[i]);
    }
}

void gelu_reference(const MatrixView& x) {
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t i = 0; i < x.cols; ++i) {
      float& value = x.row<float>(r)[i];
      value = static_cast<float>(value * 0.5 * std::erfc(-static_cast<double>(value) / std::sqrt(2.0)));
    }
}

void rope_store_reference(const RopeParams& p) {
  const std::int64_t half = p.head_dim / 2;
  std::vector<double> turned(static_cast<std::size_t>(p.head_dim));
  for (std::int64_t r = 0; r < p.x.rows; ++r)
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const float* x = p.x.row<float>(r) + h * p.head_dim;
      turned.assign(x, x + p.head_dim);
      for (std::int64_t j = 0; p.cos != nullptr && j < half; ++j) {
        const double cos = p.cos[r * half + j];
        const double sin = p.sin[r * half + j];
        turned[static_cast<std::size_t>(j)] = x[j] * cos - x[j + half] * sin;
        turned[static_cast<std::size_t>(j + half)] = x[j + half] * cos + x[j] * sin;
      }
      for (std::int64_t j = 0; j < p.head_dim; ++j) {
        const auto value = static_cast<float>(turned[static_cast<std::size_t>(j)]);
        const std::int64_t at = h * p.head_stride + r * p.row_stride + j;
        if (p.out_dtype == DType::kF32)
          static_cast<float*>(p.out)[at] = value;
        else
          static_cast<BFloat16*>(p.out)[at] = to_bf16(value);
      }
    }
}

}  // namespace purekv
