#include "kernels/cpu/rows_reference.h"

#include <cmath>

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

void rope_split_reference(const RopeSplitParams& p) {
  const std::int64_t d = p.shape.head_dim;
  const std::int64_t half = d / 2;
  const auto put = [](void* to, DType type, std::int64_t at, double value) {
    const auto narrow = static_cast<float>(value);
    if (type == DType::kF32)
      static_cast<float*>(to)[at] = narrow;
    else
      static_cast<BFloat16*>(to)[at] = to_bf16(narrow);
  };
  const std::int64_t rotated = p.shape.heads + p.shape.kv_heads;
  for (std::int64_t r = 0; r < p.qkv.rows; ++r)
    for (std::int64_t h = 0; h < rotated + p.shape.kv_heads; ++h)
      for (std::int64_t j = 0; j < d; ++j) {
        const float* x = p.qkv.row<float>(r) + h * d;
        const double cos = p.cos[r * half + j % half];
        const double sin = p.sin[r * half + j % half];
        double value = x[j];
        if (h < rotated) value = j < half ? x[j] * cos - x[j + half] * sin : x[j] * cos + x[j - half] * sin;
        if (h < p.shape.heads) {
          p.q.row<float>(r)[h * d + j] = static_cast<float>(value);
          continue;
        }
        const std::int64_t kv_head = (h - p.shape.heads) % p.shape.kv_heads;
        put(h < rotated ? p.keys : p.values, p.kv_dtype, kv_head * p.head_stride + r * p.row_stride + j, value);
      }
}

}  // namespace purekv
