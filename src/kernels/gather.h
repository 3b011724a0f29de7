#pragma once

#include <cstdint>

#include "base/shape.h"
#include "device/context.h"
#include "flow/kv_view.h"

namespace purekv {

/// Rows of every KV head, keys and values, from one place to another.
struct GatherParams {
  HeadShape shape;
  DType dtype = DType::kF32;
  const KvRows* from = nullptr;         ///< [kv_heads] device memory
  const KvRows* to = nullptr;           ///< [kv_heads] device memory, apart from `from`; `rows` rows are written a head
  const std::int32_t* slots = nullptr;  ///< [kv_heads, slot_stride] rows of `from`, ascending; null: as they come
  std::int64_t slot_stride = 0;
  std::int64_t most_rows = 0;  ///< the largest `to` count
};

/// to[h][i] = from[h][slots[h][i]] for i < to[h].rows: 4 * rows * head_dim elements of traffic a head.
void gather_rows(const Context& context, const GatherParams& params);

}  // namespace purekv
