#include "numbers.h"

#include <charconv>
#include <cmath>
#include <string>
#include <system_error>

#include "errors.h"

namespace purekv::app {
namespace {

/// True where all of `text` is one number of type T. from_chars reads no locale, no blanks, no plus
/// sign and no hexadecimal; it does read "nan" and "inf", which callers refuse by range.
template <class T>
bool read_whole(std::string_view text, T& value) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stopped == end && !text.empty();
}

}  // namespace

std::int64_t parse_integer(std::string_view flag, std::string_view text, std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  if (!read_whole(text, value) || value < low || value > high)
    fail(ErrorKind::kUsage, "{} is \"{}\"; give a whole number from {} to {}", flag, text, low, high);
  return value;
}

std::uint64_t parse_seed(std::string_view flag, std::string_view text) {
  std::uint64_t value = 0;
  if (!read_whole(text, value))
    fail(ErrorKind::kUsage, "{} is \"{}\"; give a whole number from 0 to {}", flag, text,
         std::numeric_limits<std::uint64_t>::max());
  return value;
}

double parse_real(std::string_view flag, std::string_view text, const RealRange& range) {
  double value = 0;
  const bool read = read_whole(text, value) && std::isfinite(value);
  const bool low_enough = range.above ? value > range.low : value >= range.low;
  if (!read || !low_enough || value > range.high)
    fail(ErrorKind::kUsage, "{} is \"{}\"; give a number {} {} and at most {}", flag, text,
         range.above ? "above" : "of at least", range.low, range.high);
  return value;
}

Budget parse_budget(std::string_view flag, std::string_view text) {
  Budget budget;
  if (!text.empty() && text.back() == '%') {
    const std::string_view number = text.substr(0, text.size() - 1);
    const bool read = read_whole(number, budget.percent) && std::isfinite(budget.percent);
    if (!read || budget.percent <= 0 || budget.percent > 100)
      fail(ErrorKind::kUsage, "{} is \"{}\"; give a share above 0% and at most 100%, such as 20%", flag, text);
    return budget;
  }
  budget.is_percent = false;
  if (!read_whole(text, budget.rows) || budget.rows < 1 || budget.rows > kMostCount)
    fail(ErrorKind::kUsage, "{} is \"{}\"; give a share such as 20%, or a count of rows from 1 to {}", flag, text,
         kMostCount);
  return budget;
}

Shard parse_shard(std::string_view flag, std::string_view text) {
  Shard shard;
  const std::size_t slash = text.find('/');
  const bool read = slash != std::string_view::npos && read_whole(text.substr(0, slash), shard.index) &&
                    read_whole(text.substr(slash + 1), shard.count);
  if (!read || shard.index < 1 || shard.index > shard.count || shard.count > kMostCount)
    fail(ErrorKind::kUsage, "{} is \"{}\"; give I/N with I from 1 to N, such as 2/8", flag, text);
  return shard;
}

}  // namespace purekv::app
