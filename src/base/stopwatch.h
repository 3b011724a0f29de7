#pragma once

#include <chrono>

namespace purekv {

/// The clock that every reported time comes from.
using Clock = std::chrono::steady_clock;

[[nodiscard]] inline double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

}  // namespace purekv
