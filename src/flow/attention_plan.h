#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace purekv {

/// Query rows first, first + step, ... (count of them) that share one list of key ranges.
struct QueryBlock {
  std::int32_t first = 0, count = 0, step = 1;
  std::int32_t range_begin = 0, range_end = 0;  ///< into AttentionPlan::ranges
};

/// New keys first, first + step, ... (count of them). A row i sees key j of the range where
/// (!causal or j <= i) and i - j <= reach.
struct KeyRange {
  std::int32_t first = 0, count = 0, step = 1;
  bool causal = false;  ///< the range crosses the diagonal of its block
  std::int32_t reach = std::numeric_limits<std::int32_t>::max();
};

/// What every query row of one attention call sees among the new rows: a CSR list of key ranges a
/// query block, and up to two single keys a row that seed the online softmax (m = q.k, l = 1,
/// o = v). Every mask is only another list; no mask tensor exists. Ranges of a row never overlap
/// each other nor its seeds. Rows of the cache are outside the plan: every query sees them all.
struct AttentionPlan {
  /// What a kernel makes of a plan once and keeps with it (device copies, tiles).
  struct Prepared {
    virtual ~Prepared() = default;
  };

  std::vector<QueryBlock> blocks;  ///< cover each query row once
  std::vector<KeyRange> ranges;
  std::vector<std::array<std::int32_t, 2>> seeds;  ///< [query rows] new-key rows, -1 none; may be empty
  std::int64_t pairs = 0;                          ///< visible (query, key) pairs a head, for useful FLOPs
  mutable std::shared_ptr<Prepared> prepared;      ///< by the first call that uses it; plans do not change after that
};

}  // namespace purekv
