#pragma once

#include "base/matrix.h"
#include "device/context.h"
#include "flow/attention_plan.h"

namespace purekv {

/// Attention among the rows of one fused projection, whose queries and keys are not rotated yet. For models without a
/// cache (the vision tower): nothing is taken apart, so values are never copied.
struct RopeAttentionParams {
  std::int64_t heads = 0, head_dim = 0;
  float scale = 0;
  MatrixView qkv;              ///< [rows, 3 * heads * head_dim] context.activation(): q, k, v; not what it was after it
  const float* cos = nullptr;  ///< [rows, head_dim / 2]
  const float* sin = nullptr;  ///< [rows, head_dim / 2]
  const AttentionPlan* plan = nullptr;
  MatrixView out;  ///< [rows, heads * head_dim] context.activation(); not in qkv
};

/// 4 * pairs * head_dim FLOPs a head. A plan of short windows reads qkv once and writes out once on a GPU; any other
/// rotates q and k where they are (reads and writes them once) before it attends.
void rope_attention(const Context& context, const RopeAttentionParams& params);

}  // namespace purekv
