#include "kernels/linear.h"

#include "base/fail.h"
#include "device/buffer.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/narrow.h"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

/// x of a product in its weight's type, with what it takes to make it.
struct Operand {
  Matrix narrowed, quantized;
  Buffer scales;
  ConstMatrixView x;
};

/// Normed where asked, then rounded to bf16 or scaled to fp8. The memory is stream-ordered: it may go back to the
/// pool when this call's product is queued.
Operand prepare(const Context& context, const ConstMatrixView& x, const NormOperand& norm, DType type) {
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
  if (type != DType::kFp8) return operand;
  operand.quantized = Matrix(context, DType::kFp8, x.rows, x.cols);
  operand.scales = Buffer(context, x.rows * static_cast<std::int64_t>(sizeof(float)));
  purekv::cuda::quantize_rows(context,
                {.in = operand.x, .out = operand.quantized.view(), .scales = operand.scales.as<float>()});
  operand.x = operand.quantized.view();
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

}  // namespace

void linear(const Context& context, const LinearParams& p) {
  if (gemv_takes(context, p)) return gemv(context, p);
  const Operand operand = prepare(context, p.x, p.norm, p.w.weight.dtype);
  multiply(context, operand, p.w, p.out, p.accumulate);
}

void gated_linear(const Context& context, const GatedLinearParams& p) {
  if (gated_gemv_takes(context, p)) return gated_gemv(context, p);
  const Operand operand = prepare(context, p.x, p.norm, p.gate.weight.dtype);
  const MatrixView up = p.work.slice(0, p.x.rows);
  multiply(context, operand, p.gate, p.out, false);
  multiply(context, operand, p.up, up, false);
  purekv::cuda::swiglu(context, p.out, up);
}

}  // namespace purekv::cuda
