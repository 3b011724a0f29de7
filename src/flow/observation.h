#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/matrix.h"
#include "base/shape.h"
#include "flow/frame_table.h"
#include "flow/keep_list.h"
#include "flow/kv_view.h"

namespace purekv {

/// Gram matrices (W_o^h)^T W_o^h of one layer: [heads, head_dim, head_dim] float32, so that
/// ||W_o^h v||^2 = v^T G_h v costs head_dim^2 and not hidden * head_dim.
struct GramView {
  const float* data = nullptr;   ///< null where there is a packed form
  const void* packed = nullptr;  ///< the same as a GPU's kernels multiply by it (kernels/value_norm.h)
};

/// What a method may look at once a layer's attention is done and before its cache is compacted.
struct Observation {
  std::int64_t layer = 0, layers = 0;
  HeadShape shape;
  float scale = 0;  ///< 1 / sqrt(head_dim)
  const FrameTable* table = nullptr;
  ConstMatrixView q;               ///< [l, heads * head_dim] after RoPE
  KvView kv;                       ///< all l rows of every KV head
  const float* lse = nullptr;      ///< [heads, l] log-sum-exp of each row's scaled logits
  std::function<GramView()> gram;  ///< made on first use
};

/// The one callback a model makes a layer: nothing means every row stays.
using LayerHook = std::function<std::optional<CompactionPlan>(const Observation&)>;

}  // namespace purekv
