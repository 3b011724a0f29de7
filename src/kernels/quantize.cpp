#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

float element(const ConstMatrixView& m, std::int64_t row, std::int64_t column) {
  return m.dtype == DType::kF32 ? m.row<float>(row)[column] : to_float(m.row<BFloat16>(row)[column]);
}

void quantize_row(const QuantizeParams& p, std::int64_t row) {
  float most = 0;
  for (std::int64_t i = 0; i < p.in.cols; ++i) {
    const float value = std::abs(element(p.in, row, i));
    most = (value >= most || std::isnan(value)) ? value : most;
  }
  const float scale = most < kLeastScaled ? 1.0F : most / kMostE4m3;
  const float inverse = 1.0F / scale;
  p.scales[row] = scale;
  for (std::int64_t i = 0; i < p.in.cols; ++i) p.out.row<Float8>(row)[i] = to_fp8(element(p.in, row, i) * inverse);
}

}  // namespace

void quantize_rows(const Context& context, const QuantizeParams& p) {
  PUREKV_ASSERT(p.out.dtype == DType::kFp8 && p.in.dtype != DType::kF16);
  PUREKV_ASSERT(p.in.rows == p.out.rows && p.in.cols == p.out.cols);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::quantize_rows(context, p);
  for_rows(context.threads, p.in.rows, 4 * p.in.cols, [&](std::int64_t row) { quantize_row(p, row); });
}

}  // namespace purekv
