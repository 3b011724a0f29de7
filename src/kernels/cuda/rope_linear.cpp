#include "kernels/rope_linear.h"

#include "kernels/cuda/operand.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rope_linear_sm90.h"

namespace purekv::cuda {
namespace {

/// The product, then its rows taken apart.
void by_parts(const Context& context, const RopeLinearParams& p, const Operand* operand) {
  Matrix own;  // for callers that counted on one kernel
  if (p.work.data == nullptr) own = Matrix(context, context.activation(), p.x.rows, p.w.weight.rows);
  const MatrixView qkv = p.work.data == nullptr ? own.view() : p.work.slice(0, p.x.rows);
  if (operand == nullptr)
    purekv::cuda::linear(context, {.x = p.x, .norm = p.norm, .w = p.w, .out = qkv});
  else
    multiply(context, *operand, p.w, qkv, false);
  RopeSplitParams to = p.to;
  to.qkv = qkv;
  purekv::cuda::rope_split(context, to);
}

}  // namespace

void rope_linear(const Context& context, const RopeLinearParams& p) {
  if (!rope_in_one(context, p.to.shape, p.x.rows, p.x.cols)) return by_parts(context, p, nullptr);
  const Operand operand = prepare(context, p.x, p.norm, p.w.weight.dtype);
  const RopeProduct product{.x = operand.x, .x_scales = operand.scales.as<float>(), .w = p.w, .to = p.to};
  if (rope_sm90_takes(context, product)) return rope_sm90(context, product);
  by_parts(context, p, &operand);
}

}  // namespace purekv::cuda
