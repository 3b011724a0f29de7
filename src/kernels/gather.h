#pragma once

#include <cstdint>

#include "device/context.h"

namespace purekv {

/// out[i] = in[rows[i]]; rows of `row_bytes` bytes, contiguous on both sides.
struct GatherParams {
  const void* in = nullptr;
  const std::int32_t* rows = nullptr;  ///< [count], ascending
  std::int64_t count = 0, row_bytes = 0;
  void* out = nullptr;  ///< [count] rows; apart from in
};

/// Copies the named rows: 2 * count * row_bytes bytes of traffic.
void gather_rows(const Context& context, const GatherParams& params);

}  // namespace purekv
