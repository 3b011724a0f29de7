#pragma once

#ifndef __CUDACC__  // nvcc 13.0 stops at fmt 9's compile-time check: kernels' files only assert
#include <fmt/format.h>
#endif

#include <string>
#include <utility>

#include "purekv/error.h"

namespace purekv {

#ifndef __CUDACC__
/// Throws Error(kind) with a formatted one-line message.
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}
#endif

[[noreturn]] inline void fail_assertion(const char* condition, const char* file, int line) {
  throw Error(ErrorKind::kInternal,
              std::string("internal: ") + condition + " is false at " + file + ":" + std::to_string(line));
}

/// Our own bug, never reachable by user input: the message carries the place.
#define PUREKV_ASSERT(condition)                                                \
  do {                                                                          \
    if (!(condition)) ::purekv::fail_assertion(#condition, __FILE__, __LINE__); \
  } while (false)

}  // namespace purekv
