#pragma once

#include <cstdint>

namespace purekv {

/// Head layout of an attention layer. KV head k serves query heads [k * group, (k + 1) * group).
struct HeadShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  [[nodiscard]] std::int64_t group() const { return heads / kv_heads; }
  /// Of a projection to queries, keys and values.
  [[nodiscard]] std::int64_t qkv_cols() const { return (heads + 2 * kv_heads) * head_dim; }
};

}  // namespace purekv
