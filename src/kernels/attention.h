#pragma once

#include "base/matrix.h"
#include "base/shape.h"
#include "device/context.h"
#include "flow/attention_plan.h"
#include "flow/kv_view.h"

namespace purekv {

/// Two key sources: cached rows (ragged per KV head, every query sees them all) and fresh rows,
/// which a query sees by the plan. Prefill has fresh rows only, decode cached rows only, a follow-up
/// question over a compressed cache both.
struct AttentionParams {
  HeadShape shape;
  float scale = 0;
  ConstMatrixView q;                    ///< [rows, heads * head_dim] context.activation(), after RoPE
  KvView cached;                        ///< heads empty: none
  KvView fresh;                         ///< heads empty: none; rows as the plan numbers them
  const AttentionPlan* plan = nullptr;  ///< null where there are no fresh rows
  MatrixView out;                       ///< [rows, heads * head_dim] context.activation(); not q
  float* lse = nullptr;                 ///< [heads, rows] log-sum-exp of scaled logits, or null
};

/// Throws Error(kResource) with the remedy where the context's attention kernels (decode too) lack a shape.
void check_attention_shape(const Context& context, const HeadShape& shape);

/// Softmax attention by online softmax over range lists; no attention matrix exists.
/// 4 * pairs * head_dim FLOPs a head; reads each K/V row once a query block and KV head.
void attention(const Context& context, const AttentionParams& params);

}  // namespace purekv
