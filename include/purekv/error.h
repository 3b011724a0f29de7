#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace purekv {

/// What went wrong, by who can mend it. The values are the program's exit codes.
enum class ErrorKind {
  kInternal = 1,       ///< our own fault: an assertion, with its place
  kUsage = 2,          ///< an option or a combination of options that cannot be
  kInput = 3,          ///< media, model or prompt
  kResource = 4,       ///< memory, device, or output that cannot be written
  kInterrupted = 130,  ///< the caller's stop token was set
};

/// The one exception of the library. `what()` is one line that names the thing, the value found
/// and the remedy. The library never exits and never prints an error.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace purekv
