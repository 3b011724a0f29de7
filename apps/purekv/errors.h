#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "purekv/error.h"

namespace purekv::app {

/// Throws Error(kind) with a formatted one-line message.
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// `text` on one line that a terminal can show: control characters become `\xNN`, long text is cut.
std::string one_line(std::string_view text);

/// Prints the exception in flight as one line on stderr and returns the exit code it stands for.
/// Call it inside a catch block.
int report_exception() noexcept;

}  // namespace purekv::app
