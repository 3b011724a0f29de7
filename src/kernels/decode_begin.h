#pragma once

#include <array>
#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"
#include "flow/kv_view.h"

namespace purekv {

/// What a decode step starts with, for several sequences.
struct DecodeBeginParams {
  ConstMatrixView table;                     ///< [vocab, hidden] embedding
  const std::int32_t* ids = nullptr;         ///< [sequences]; a negative id reads row 0
  const std::int32_t* positions = nullptr;   ///< [sequences] of the new rows; all three axes are equal
  const float* inverse_frequency = nullptr;  ///< [head_dim / 2]
  std::int64_t half = 0;                     ///< head_dim / 2
  MatrixView hidden;                         ///< [sequences, hidden] float32
  float* cos = nullptr;                      ///< [sequences, head_dim / 2]
  float* sin = nullptr;
};
void decode_begin(const Context& context, const DecodeBeginParams& params);

/// After a step: every head holds one row more, every sequence stands one position further.
struct DecodeEndParams {
  KvRows* rows = nullptr;  ///< [count]
  std::int64_t count = 0;
  std::int32_t* positions = nullptr;  ///< [sequences]
  std::int64_t sequences = 0;
};
void decode_end(const Context& context, const DecodeEndParams& params);

}  // namespace purekv
