#include "kernels/mlp.h"

#include "kernels/cuda/operand.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize_fused.h"

namespace purekv::cuda {

void mlp(const Context& context, const MlpParams& p) {
  const MatrixView gate = p.gate_work.slice(0, p.x.rows);
  const MatrixView up = p.up_work.slice(0, p.x.rows);
  const GatedLinearParams gated{.x = p.x, .norm = p.norm, .gate = p.gate, .up = p.up, .out = gate, .work = up};
  const bool is_fp8 = p.down.weight.dtype == DType::kFp8 && p.gate.weight.dtype == DType::kFp8;
  if (!is_fp8 || streams(context, gated)) {
    purekv::cuda::gated_linear(context, gated);
    purekv::cuda::linear(context, {.x = gate, .norm = {}, .w = p.down, .out = p.out, .accumulate = true});
    return;
  }
  {
    const Operand x = prepare(context, p.x, p.norm, DType::kFp8);
    multiply(context, x, p.gate, gate, false);
    multiply(context, x, p.up, up, false);
  }
  const Operand inner = take_quantized(context, gate.rows, gate.cols);
  swiglu_quantize(context, gate, up, {inner.quantized.view(), inner.scales.as<float>()});
  multiply(context, inner, p.down, p.out, true);
}

}  // namespace purekv::cuda
