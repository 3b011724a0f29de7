#include "kernels/mlp.h"

#include "kernels/cuda/ops.h"

namespace purekv {

void mlp(const Context& context, const MlpParams& p) {
  if (p.x.rows == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::mlp(context, p);
  const MatrixView gate = p.gate_work.slice(0, p.x.rows);
  gated_linear(context, {.x = p.x, .norm = p.norm, .gate = p.gate, .up = p.up, .out = gate, .work = p.up_work});
  linear(context, {.x = gate, .norm = {}, .w = p.down, .out = p.out, .accumulate = true});
}

bool mlp_stores_up(const Context& context, std::int64_t rows, std::int64_t hidden, std::int64_t ffn) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return !cuda::gated_in_one(context, rows, hidden, ffn);
  return true;
}

}  // namespace purekv
