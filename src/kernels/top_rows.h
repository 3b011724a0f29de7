#pragma once

#include <cstdint>

#include "device/context.h"

namespace purekv {

struct TopRowsParams {
  const float* score = nullptr;  ///< [heads, stride], the first `rows` columns are ranked
  std::int64_t heads = 0, rows = 0, stride = 0;
  std::int64_t count = 0;         ///< 0 <= count <= rows
  std::int32_t* slots = nullptr;  ///< [heads, slot_stride]: the first `count` are written
  std::int64_t slot_stride = 0;
};

/// The `count` best rows of each head, ascending. Higher first, of equals the lower row; -0 equals 0; NaN ranks last.
/// Exact and deterministic: a radix select.
void top_rows(const Context& context, const TopRowsParams& params);

}  // namespace purekv
