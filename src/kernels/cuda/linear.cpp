#include "kernels/linear.h"

#include "base/fail.h"
#include "kernels/cuda/gated_linear_sm90.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/join_exponents.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/narrow.h"
#include "kernels/cuda/operand.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_fused.h"

namespace purekv::cuda {
namespace {

GatedProduct product_of(const Operand& operand, const GatedLinearParams& p) {
  return {.x = operand.x, .x_scales = operand.scales.as<float>(), .gate = p.gate, .up = p.up, .out = p.out};
}

/// To e4m3 in the memory of the bf16 rows.
GatedProduct quantized_of(const Operand& operand, const GatedLinearParams& p) {
  GatedProduct product = product_of(operand, p);
  product.out = {p.out.data, DType::kFp8, p.out.rows, p.out.cols, p.out.cols};
  return product;
}

}  // namespace

Operand take_quantized(const Context& context, std::int64_t rows, std::int64_t cols) {
  Operand operand;
  operand.quantized = Matrix(context, DType::kFp8, rows, cols);
  operand.scales = Buffer(context, rows * static_cast<std::int64_t>(sizeof(float)));
  operand.x = operand.quantized.view();
  return operand;
}

Operand prepare(const Context& context, const ConstMatrixView& x, const NormOperand& norm, DType type) {
  if (type == DType::kFp8) {
    Operand operand = take_quantized(context, x.rows, x.cols);
    const QuantizedRows rows{operand.quantized.view(), operand.scales.as<float>()};
    if (norm.weight != nullptr)
      rms_norm_quantize(context, x, norm, rows);
    else
      purekv::cuda::quantize_rows(context, {.in = x, .out = rows.out, .scales = rows.scales});
    return operand;
  }
  Operand operand;
  operand.x = x;
  if (norm.weight != nullptr) {
    const MatrixView out = norm.work.slice(0, x.rows);
    purekv::cuda::rms_norm(context, {.x = x, .weight = norm.weight, .eps = norm.eps, .out = out});
    operand.x = out;
  } else if (x.dtype == DType::kF32 && type == DType::kBF16) {
    operand.narrowed = Matrix(context, DType::kBF16, x.rows, x.cols);
    narrow(context, x, operand.narrowed.view());
    operand.x = operand.narrowed.view();
  }
  return operand;
}

void multiply(const Context& context, const Operand& operand, const LinearOperand& w, const MatrixView& out,
              bool accumulate) {
  const bool narrow_bias = out.dtype == DType::kBF16 || w.weight.dtype == DType::kFp8;
  PUREKV_ASSERT(w.bias == nullptr || !narrow_bias || w.bias16 != nullptr);
  matmul(context, {.x = operand.x,
                   .weight = w.weight,
                   .x_scales = operand.scales.as<float>(),
                   .weight_scales = w.scales,
                   .bias = narrow_bias ? w.bias16 : w.bias,
                   .out = out,
                   .accumulate = accumulate});
}

bool fuses_gated(const Context& context, const Operand& operand, const GatedLinearParams& p) {
  return gated_sm90_takes(context, product_of(operand, p));
}

bool quantizes_gated(const Context& context, const Operand& operand, const GatedLinearParams& p) {
  return p.out.dtype == DType::kBF16 && p.out.stride == p.out.cols && p.gate.weight.dtype == DType::kFp8 &&
         gated_sm90_takes(context, quantized_of(operand, p));
}

Operand multiply_gated_quantized(const Context& context, const Operand& operand, const GatedLinearParams& p) {
  GatedProduct product = quantized_of(operand, p);
  const std::int64_t rows = product.out.rows;
  const PieceExponentBuffer exponents(context, rows, gated_sm90_pieces(product.out.cols));
  product.exponents = exponents.view;
  gated_sm90(context, product);
  Operand out;
  out.scales = Buffer(context, rows * static_cast<std::int64_t>(sizeof(float)));
  out.x = product.out;
  join_exponents(context, product.out, product.exponents, out.scales.as<float>());
  return out;
}

void multiply_gated(const Context& context, const Operand& operand, const GatedLinearParams& p) {
  if (fuses_gated(context, operand, p)) return gated_sm90(context, product_of(operand, p));
  Matrix own;  // for callers that counted on one kernel; a decode step, which must not take memory, gives `work`
  if (p.work.data == nullptr) own = Matrix(context, p.out.dtype, p.x.rows, p.out.cols);
  const MatrixView up = own.view().data != nullptr ? own.view() : p.work.slice(0, p.x.rows);
  multiply(context, operand, p.gate, p.out, false);
  multiply(context, operand, p.up, up, false);
  purekv::cuda::swiglu(context, p.out, up);
}

void linear(const Context& context, const LinearParams& p) {
  if (gemv_takes(context, p)) return gemv(context, p);
  const Operand operand = prepare(context, p.x, p.norm, p.w.weight.dtype);
  multiply(context, operand, p.w, p.out, p.accumulate);
}

void gated_linear(const Context& context, const GatedLinearParams& p) {
  if (gated_gemv_takes(context, p)) return gated_gemv(context, p);
  const Operand operand = prepare(context, p.x, p.norm, p.gate.weight.dtype);
  multiply_gated(context, operand, p);
}

}  // namespace purekv::cuda
