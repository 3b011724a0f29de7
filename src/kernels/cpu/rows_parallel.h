#pragma once

#include <algorithm>
#include <cstdint>

#include "base/parallel.h"

namespace purekv {

/// Runs body(row) for every row, in runs of rows that are worth a thread; `cost` is values a row.
template <class Body>
void for_rows(int threads, std::int64_t rows, std::int64_t cost, const Body& body) {
  constexpr std::int64_t kItemValues = 1LL << 15U;  // about 10 us of work, several times what a thread costs to wake
  const std::int64_t step = std::max<std::int64_t>(1, kItemValues / std::max<std::int64_t>(1, cost));
  parallel_for(threads, (rows + step - 1) / step, [&](std::int64_t item) {
    for (std::int64_t row = item * step; row < std::min(rows, (item + 1) * step); ++row) body(row);
  });
}

}  // namespace purekv
