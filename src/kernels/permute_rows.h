#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

struct PermuteRowsParams {
  ConstMatrixView in;                  ///< [any, cols]
  const std::int32_t* rows = nullptr;  ///< [rows of out], each a row of `in`
  std::int64_t group = 1;  ///< rows[i] moves `group` rows: out row i * group + j = in row rows[i] * group + j
  MatrixView out;          ///< [count * group, cols], the type of `in`; apart from it
};

/// Copies rows into another order: 2 * rows * cols elements of traffic.
void permute_rows(const Context& context, const PermuteRowsParams& params);

}  // namespace purekv
