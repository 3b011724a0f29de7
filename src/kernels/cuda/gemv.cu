#include "kernels/cuda/gemv.h"

#include <algorithm>

#include "base/fail.h"
#include "kernels/cuda/gemv.cuh"

namespace purekv::cuda {
namespace {

bool aligned(const void* data, std::int64_t row_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && row_bytes % 16 == 0;
}

bool rows_aligned(const ConstMatrixView& m) {
  return aligned(m.data, m.stride * static_cast<std::int64_t>(size_of(m.dtype)));
}

bool operand_fits(const LinearOperand& w) {
  const bool fp8 = w.weight.dtype == DType::kFp8;
  if (fp8 ? w.scales == nullptr : w.weight.dtype != DType::kBF16) return false;
  return w.weight.cols % (fp8 ? 16 : 8) == 0 && w.weight.cols > 0 && w.weight.rows > 0 && rows_aligned(w.weight);
}

GemvParams make_params(const ConstMatrixView& x, const NormOperand& norm, const LinearOperand& w,
                       const MatrixView& out) {
  GemvParams p;
  p.x = x.data;
  p.x_stride = x.stride;
  p.x_wide = x.dtype == DType::kF32;
  p.norm = norm.weight;
  p.eps = norm.eps;
  p.tokens = static_cast<int>(x.rows);
  p.in = static_cast<int>(x.cols);
  p.out_rows = static_cast<int>(w.weight.rows);
  p.weight[0] = static_cast<const std::byte*>(w.weight.data);
  p.weight_stride = w.weight.stride * static_cast<std::int64_t>(size_of(w.weight.dtype));
  p.bias[0] = w.bias;
  p.scales[0] = w.weight.dtype == DType::kFp8 ? w.scales : nullptr;
  p.out = out.data;
  p.out_stride = out.stride;
  p.out_wide = out.dtype == DType::kF32;
  return p;
}

/// Launches the instance, or only says whether x fits beside the ring.
template <GemvWeight kType, bool kGated, int kTokenTiles, bool kStreamX>
bool run(const Context& context, const GemvParams& p, bool only_ask) {
  using Shape = GemvShape<kType, kGated, kTokenTiles, kStreamX>;
  const std::size_t bytes = Shape::shared_bytes(p.in, p.tokens);
  if (bytes > context.cuda->smem_bytes) return false;
  if (only_ask) return true;
  const int blocks = std::min(p.out_rows, context.cuda->sms);
  launch_chained(context, gemv_kernel<kType, kGated, kTokenTiles, kStreamX>, dim3(static_cast<unsigned>(blocks)),
                 kGemvThreads, bytes, p);
  return true;
}

template <GemvWeight kType, bool kGated>
bool run_any(const Context& context, const GemvParams& p, bool only_ask) {
  const bool one_tile = p.tokens <= kGemvTokens;
  // Several tokens that are used as they are pass with the weights: that needs no pass over them before the product.
  // Beside fp8 weights they would be the larger part of what passes, so there only where they do not fit.
  const bool passes = !kGated && !p.x_wide && p.norm == nullptr;
  if (!passes || p.tokens == 1 || kType == GemvWeight::kFp8)
    if (one_tile ? run<kType, kGated, 1, false>(context, p, only_ask)
                 : run<kType, kGated, 2, false>(context, p, only_ask))
      return true;
  if constexpr (kGated)
    return false;
  else
    return passes && (one_tile ? run<kType, false, 1, true>(context, p, only_ask)
                               : run<kType, false, 2, true>(context, p, only_ask));
}

bool try_gemv(const Context& context, const LinearParams& p, bool only_ask) {
  if (p.x.rows < 1 || p.x.rows > kGemvMostTokens || !operand_fits(p.w) || !rows_aligned(p.x)) return false;
  if (p.norm.weight != nullptr && !aligned(p.norm.weight, 0)) return false;
  PUREKV_ASSERT(p.x.cols == p.w.weight.cols && p.out.cols == p.w.weight.rows && p.out.rows == p.x.rows);
  GemvParams params = make_params(p.x, p.norm, p.w, p.out);
  params.accumulate = p.accumulate;
  return p.w.weight.dtype == DType::kFp8 ? run_any<GemvWeight::kFp8, false>(context, params, only_ask)
                                         : run_any<GemvWeight::kBf16, false>(context, params, only_ask);
}

bool try_gated(const Context& context, const GatedLinearParams& p, bool only_ask) {
  if (p.x.rows < 1 || p.x.rows > kGemvMostTokens || !rows_aligned(p.x)) return false;
  if (!operand_fits(p.gate) || !operand_fits(p.up) || p.gate.weight.dtype != p.up.weight.dtype) return false;
  if (p.gate.weight.stride != p.up.weight.stride) return false;
  if (p.norm.weight != nullptr && !aligned(p.norm.weight, 0)) return false;
  PUREKV_ASSERT(p.x.cols == p.gate.weight.cols && p.out.cols == p.gate.weight.rows && p.out.rows == p.x.rows);
  PUREKV_ASSERT(p.up.weight.rows == p.gate.weight.rows && p.up.weight.cols == p.gate.weight.cols);
  GemvParams params = make_params(p.x, p.norm, p.gate, p.out);
  params.weight[1] = static_cast<const std::byte*>(p.up.weight.data);
  params.bias[1] = p.up.bias;
  params.scales[1] = p.gate.weight.dtype == DType::kFp8 ? p.up.scales : nullptr;
  return p.gate.weight.dtype == DType::kFp8 ? run_any<GemvWeight::kFp8, true>(context, params, only_ask)
                                            : run_any<GemvWeight::kBf16, true>(context, params, only_ask);
}

}  // namespace

bool gemv_takes(const Context& context, const LinearParams& params) { return try_gemv(context, params, true); }

void gemv(const Context& context, const LinearParams& params) { PUREKV_ASSERT(try_gemv(context, params, false)); }

bool gated_gemv_takes(const Context& context, const GatedLinearParams& params) {
  return try_gated(context, params, true);
}

void gated_gemv(const Context& context, const GatedLinearParams& params) {
  PUREKV_ASSERT(try_gated(context, params, false));
}

}  // namespace purekv::cuda
