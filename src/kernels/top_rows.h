#pragma once

#include <cstdint>
#include <vector>

#include "device/context.h"

namespace purekv {

/// The `count` best rows of score[0, rows), ascending. Higher first, of equals the lower row; NaN
/// ranks last. count > rows keeps all.
std::vector<std::int32_t> top_rows(const Context& context, const float* score, std::int64_t rows, std::int64_t count);

}  // namespace purekv
