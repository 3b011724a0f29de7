#pragma once

#include <cstdint>

#include "device/context.h"

namespace purekv {

/// Angles of rotary embedding: row r, frequency j turns by position[axis[j]][r] * frequency[j].
struct RopeTableParams {
  const std::int32_t* positions = nullptr;  ///< [axes, rows]
  std::int64_t rows = 0;
  const float* frequency = nullptr;    ///< [half]
  const std::int32_t* axis = nullptr;  ///< [half]
  std::int64_t half = 0;
  float* cos = nullptr;  ///< [rows, half]
  float* sin = nullptr;
};

/// The product is rounded to float32 before cos and sin, as transformers does.
void rope_table(const Context& context, const RopeTableParams& params);

}  // namespace purekv
