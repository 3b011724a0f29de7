#pragma once

#include <cstdint>
#include <vector>

#include "flow/frame_table.h"
#include "purekv/options.h"

namespace purekv {

/// What a budget means for one prompt.
struct ResolvedBudget {
  std::int64_t rows = 0;    ///< B, text rows included where the base is the prompt
  std::int64_t window = 0;  ///< effective w: the last w rows are kept and, for own and clie, ask
  bool compress = false;    ///< false: every row stays and nothing is scored
};

/// The one place where a budget becomes rows (docs/interfaces.md); l = table.rows.
/// Throws Error(kUsage) where the budget is not above 0, or a share is above 100 %.
ResolvedBudget resolve_budget(const CompressionOptions& options, const FrameTable& table);

/// Options after the rules of frame scores: they bring max, max and `out` of their own, and without visual
/// rows one is `own` with a window of 32.
CompressionOptions effective_options(const CompressionOptions& options, const FrameTable& table);

[[nodiscard]] constexpr bool is_frame_score(Score score) {
  return score == Score::kFrame || score == Score::kOwnFrame || score == Score::kClieFrame;
}

/// Which of the ranked columns [0, l - w) stay whatever their score, and how many others may.
struct Quota {
  std::vector<bool> forced;  ///< [l - w]
  std::int64_t forced_count = 0;
  std::int64_t ranked = 0;  ///< best rows that stay beside the forced ones and the window
};

Quota make_quota(const CompressionOptions& options, const ResolvedBudget& budget, const FrameTable& table);

}  // namespace purekv
