#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace purekv {

/// One row of one head to rotate and store. Plain data: it crosses into files that are compiled for other instruction
/// sets.
struct RopeRow {
  const float* x = nullptr;    ///< [dim]
  const float* cos = nullptr;  ///< [dim / 2]; null: only stored
  const float* sin = nullptr;  ///< [dim / 2]
  std::int64_t dim = 0;
  void* out = nullptr;  ///< [dim]; may be x
  bool bf16 = false;    ///< type of out, else float32
};

/// The closed table of row-wise work: one row an instruction set.
struct RowsIsa {
  const char* name;
  /// out = x / sqrt(mean(x^2) + eps) * weight.
  void (*rms_norm)(const float* x, const float* weight, std::int64_t count, float eps, float* out);
  /// gate = silu(gate) * up.
  void (*swiglu)(float* gate, const float* up, std::int64_t count);
  /// x = x * Phi(x).
  void (*gelu)(float* x, std::int64_t count);
  void (*rope)(const RopeRow& row);
  /// out = stored values at any byte address, widened.
  void (*widen)(const void* stored, DType dtype, std::int64_t count, float* out);
};

extern const RowsIsa kRowsGeneric;
extern const RowsIsa kRowsAvx2;
extern const RowsIsa kRowsAvx512;

/// The row of the table that this machine runs.
const RowsIsa& rows_isa();

}  // namespace purekv
