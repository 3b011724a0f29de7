#pragma once

#include <cstdint>

#include "device/context.h"

namespace purekv {

/// One product of a score: n(a * b) or a * b (docs/method.md).
struct ScoreTerm {
  const float* a = nullptr;  ///< [kv_heads, a_stride]
  const float* b = nullptr;  ///< [kv_heads, b_stride] or null: a alone
  std::int64_t a_stride = 0, b_stride = 0;
};

/// Bits of JoinScoresParams::kind.
inline constexpr std::uint8_t kVisualRow = 1, kForcedRow = 2;

/// What is ranked, from its terms.
struct JoinScoresParams {
  std::int64_t kv_heads = 0, columns = 0;
  const std::uint8_t* kind = nullptr;  ///< [columns] kVisualRow; kForcedRow: kept whatever its score (+inf)
  ScoreTerm terms[3] = {};             ///< 1 to 3
  int count = 0;
  bool normalise = false;  ///< over visual rows: max of n(term), n(x) = x / sum of x (0 where the sum is not above 0),
                           ///< and 0 in text; else the first term as it is
  float* score = nullptr;  ///< [kv_heads, columns]
};

/// Sums in double, one fixed order: the same bits from run to run.
void join_scores(const Context& context, const JoinScoresParams& params);

}  // namespace purekv
