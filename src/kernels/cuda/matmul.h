#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv::cuda {

/// out = x W^T (+ bias) (+ out where `accumulate`) on cuBLASLt.
struct MatmulParams {
  ConstMatrixView x;                     ///< [rows, in] bf16 or fp8
  ConstMatrixView weight;                ///< [out, in], the type of x
  const float* x_scales = nullptr;       ///< [rows], fp8 only
  const float* weight_scales = nullptr;  ///< [out], fp8 only
  const void* bias = nullptr;            ///< [out] bf16 where out is bf16 or x is fp8, else float32
  MatrixView out;                        ///< [rows, out] bf16 or float32
  bool accumulate = false;
};

/// 2 rows in out FLOPs. The algorithm is cuBLASLt's own first choice for the shape, looked up once a shape and never
/// timed, so that a run repeats bit for bit. Throws Error(kResource) where the library has none.
void matmul(const Context& context, const MatmulParams& params);

}  // namespace purekv::cuda
