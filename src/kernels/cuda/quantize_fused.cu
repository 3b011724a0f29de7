#include "kernels/cuda/quantize_fused.h"

#include "kernels/cuda/quantize.cuh"

namespace purekv::cuda {
namespace {

/// silu(gate) * up, rounded to bf16 as it waits: what swiglu() leaves. 4 bytes, 6 FLOPs an element.
struct SwigluSource {
  static constexpr bool kNorm = false;
  struct Raw {
    uint4 gate, up;
  };
  using Unit = uint4;
  ConstMatrixView gate, up;

  __device__ Raw load(std::int64_t row, int unit) const {
    return {load_raw(row_of<__nv_bfloat16>(gate, row) + unit * kUnit),
            load_raw(row_of<__nv_bfloat16>(up, row) + unit * kUnit)};
  }
  __device__ Unit make(const Raw& raw, int, float&) const {
    float x[kUnit];
    float y[kUnit];
    widen_unit(raw.gate, x);
    widen_unit(raw.up, y);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) x[i] = silu(x[i]) * y[i];
    return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
  }
  __device__ float element(std::int64_t row, std::int64_t i, float&) const {
    const float g = __bfloat162float(row_of<__nv_bfloat16>(gate, row)[i]);
    const float u = __bfloat162float(row_of<__nv_bfloat16>(up, row)[i]);
    return __bfloat162float(__float2bfloat16(silu(g) * u));
  }
};

/// A residual stream's rows times the norm's weight: 2 or 4 bytes, 3 FLOPs an element; the weights come from the
/// caches.
template <class T>
struct NormSource {
  static constexpr bool kNorm = true;
  using Raw = RawUnit<T>;
  using Unit = WideUnit;
  ConstMatrixView x;
  const float* weight;
  float eps;

  __device__ Raw load(std::int64_t row, int unit) const { return load_raw(row_of<T>(x, row) + unit * kUnit); }
  __device__ Unit make(const Raw& raw, int unit, float& squares) const {
    float w[kUnit];
    load_unit(weight + unit * kUnit, w);
    Unit out;
    widen_unit(raw, out.x);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      squares += out.x[i] * out.x[i];
      out.x[i] *= w[i];
    }
    return out;
  }
  __device__ float element(std::int64_t row, std::int64_t i, float& squares) const {
    const auto value = static_cast<float>(row_of<T>(x, row)[i]);
    squares += value * value;
    return value * weight[i];
  }
};

}  // namespace

void rms_norm_quantize(const Context& context, const ConstMatrixView& x, const NormOperand& norm,
                       const QuantizedRows& rows) {
  PUREKV_ASSERT(x.rows == rows.out.rows && x.cols == rows.out.cols);
  with_element(x.dtype, [&]<class T>(T) {
    quantize(context, NormSource<T>{x, norm.weight, norm.eps}, rows, has_units(x) && is_aligned_16(norm.weight));
  });
}

void swiglu_quantize(const Context& context, const ConstMatrixView& gate, const ConstMatrixView& up,
                     const QuantizedRows& rows) {
  PUREKV_ASSERT(gate.dtype == DType::kBF16 && up.dtype == DType::kBF16 && gate.cols == rows.out.cols);
  PUREKV_ASSERT(gate.rows == rows.out.rows && up.rows == rows.out.rows && up.cols == rows.out.cols);
  quantize(context, SwigluSource{gate, up}, rows, has_units(gate) && has_units(up));
}

}  // namespace purekv::cuda
