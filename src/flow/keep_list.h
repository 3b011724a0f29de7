#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

/// Cache slots that stay, per KV head, ascending. Heads may keep different counts.
struct KeepList {
  std::vector<std::vector<std::int32_t>> slots;  ///< [KV heads][kept]
};

/// What KvCache::apply obeys. Merges of dropped rows into kept ones find their place here.
struct CompactionPlan {
  KeepList keep;
};

}  // namespace purekv
