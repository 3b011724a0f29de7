#pragma once

#include "kernels/linear.h"
#include "kernels/rope.h"

namespace purekv {

/// A layer's queries, keys and values: the rows of one fused projection, rotated and taken apart.
struct RopeLinearParams {
  ConstMatrixView x;  ///< [rows, in] float32, or context.activation()
  NormOperand norm;
  LinearOperand w;     ///< [(heads + 2 kv_heads) * head_dim, in]: of q, k, v
  MatrixView work;     ///< [rows, (heads + 2 kv_heads) * head_dim] context.activation(): holds the product where it has
                       ///< to be stored; no memory where one kernel makes all (rope_linear_stores)
  RopeSplitParams to;  ///< where all goes; its `qkv` is not read
};

/// 2 rows in out FLOPs, and what rope_split says of the rotation. Where one kernel makes both (Hopper, some hundred
/// rows, head_dim 64 or 128) the product is rounded once, after its rotation, and never stored. Throws Error(kInternal)
/// on shapes that do not fit.
void rope_linear(const Context& context, const RopeLinearParams& params);

/// Whether the product of so many rows has to be stored.
bool rope_linear_stores(const Context& context, const HeadShape& shape, std::int64_t rows, std::int64_t in);

}  // namespace purekv
