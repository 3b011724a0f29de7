#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

/// Cache slots that stay, per KV head, ascending. Heads may keep different counts. The slots are the selector's
/// memory: good until it selects again, which is enough for an operation queued before that.
struct KeepList {
  const std::int32_t* slots = nullptr;  ///< [KV heads, slot_stride] device memory
  std::int64_t slot_stride = 0;
  std::vector<std::int64_t> counts;  ///< [KV heads] kept, at most slot_stride
};

/// What KvCache::apply obeys. Merges of dropped rows into kept ones find their place here.
struct CompactionPlan {
  KeepList keep;
};

}  // namespace purekv
