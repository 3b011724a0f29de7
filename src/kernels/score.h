#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/shape.h"
#include "device/context.h"
#include "flow/frame_table.h"
#include "flow/kv_view.h"

namespace purekv {

/// Throws Error(kResource) with the remedy where the context's score kernels (value_norm's too) lack a shape: a GPU's
/// hold a head's row in registers.
void check_score_shape(const Context& context, const HeadShape& shape);

/// Eq. 2 of the paper: softmax rows of the last `window` queries over all keys they see causally.
struct WindowScoreParams {
  HeadShape shape;
  float scale = 0;
  ConstMatrixView q;           ///< [l, heads * head_dim] context.activation()
  KvView kv;                   ///< l rows
  std::int64_t window = 0;     ///< w: the last w rows of q
  bool row_max = false;        ///< over window rows: max, else sum
  bool group_max = false;      ///< over a KV head's query heads: max, else mean
  const float* lse = nullptr;  ///< [heads, l] log-sum-exp of rows that saw every key up to their own, where it is known
                               ///< (CUDA spares half of the work; the CPU makes its own); null: not known
  float* out = nullptr;        ///< [kv_heads, l - w]
};

/// C[k, j] over j < l - w. 2 w l head_dim heads FLOPs.
void window_score(const Context& context, const WindowScoreParams& params);

/// The frame-local block of docs/method.md: queries and keys of one token-frame, causal.
struct FrameScoreParams {
  HeadShape shape;
  float scale = 0;
  const FrameTable* table = nullptr;
  ConstMatrixView q;           ///< [l, heads * head_dim] context.activation()
  KvView kv;                   ///< l rows
  const float* lse = nullptr;  ///< [heads, l], for `self`
  float* local = nullptr;      ///< [kv_heads, l]: own-frame softmax, max over rows and group; 0 in text
  float* self = nullptr;       ///< [kv_heads, l]: the row's whole softmax, same maxima; may be null
};

void frame_score(const Context& context, const FrameScoreParams& params);

}  // namespace purekv
