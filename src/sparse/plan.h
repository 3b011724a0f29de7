#pragma once

#include <cstdint>

#include "device/context.h"
#include "flow/attention_plan.h"
#include "flow/frame_table.h"
#include "purekv/options.h"

namespace purekv {

/// A mask of docs/method.md as a range list over the prompt's own rows.
struct PlanRequest {
  Pattern pattern = Pattern::kDense;
  std::int64_t local_window = 0;  ///< kLocal: i - j <= W
  std::int64_t atrous_rate = 0;   ///< kAtrous: (i - j) mod a == 0
  std::int32_t block_rows = 64;   ///< most query rows a block
};

/// Query rows of a block that the context's attention works best from: the CPU takes blocks as they are, a GPU
/// cuts them itself.
std::int32_t plan_block_rows(const Context& context);

/// Causal always; under every sparse pattern text sees all before it and is seen by all after it,
/// and a visual row sees visual rows of its own clip only.
AttentionPlan make_plan(const FrameTable& table, const PlanRequest& request);

/// Bidirectional segments (the vision tower): rows [starts[i], starts[i + 1]) see each other.
AttentionPlan make_segment_plan(const std::vector<std::int32_t>& starts, std::int32_t block_rows = 64);

}  // namespace purekv
