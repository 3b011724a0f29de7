#pragma once

#include <fmt/format.h>

#include <utility>

#include "purekv/error.h"

namespace purekv {

/// Throws Error(kind) with a formatted one-line message.
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Our own bug, never reachable by user input: the message carries the place.
#define PUREKV_ASSERT(condition)                                                                             \
  do {                                                                                                       \
    if (!(condition))                                                                                        \
      ::purekv::fail(::purekv::ErrorKind::kInternal, "internal: {} is false at {}:{}", #condition, __FILE__, \
                     __LINE__);                                                                              \
  } while (false)

}  // namespace purekv
