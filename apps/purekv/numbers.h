#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "purekv/options.h"

namespace purekv::app {

/// Largest count a flag takes. Rows, frames and ids are 32-bit further in.
inline constexpr std::int64_t kMostCount = std::numeric_limits<std::int32_t>::max();

/// What a real-valued flag accepts; `above` leaves the lower end itself out.
struct RealRange {
  double low = 0, high = 0;
  bool above = false;
};

/// Checked parsing of a flag's value: the whole text, decimal, finite, in range. Each throws
/// Error(kUsage) naming the flag, the text and the allowed range.
std::int64_t parse_integer(std::string_view flag, std::string_view text, std::int64_t low, std::int64_t high);
std::uint64_t parse_seed(std::string_view flag, std::string_view text);
double parse_real(std::string_view flag, std::string_view text, const RealRange& range);
/// `20%` (above 0, at most 100) or a row count of at least 1.
Budget parse_budget(std::string_view flag, std::string_view text);

/// "I/N" with 1 <= I <= N.
struct Shard {
  std::int64_t index = 1, count = 1;
};
Shard parse_shard(std::string_view flag, std::string_view text);

}  // namespace purekv::app
