#include "errors.h"

#include <cstdio>
#include <exception>
#include <new>

#include "interrupt.h"
#include "progress.h"

namespace purekv::app {
namespace {

int print_error(std::string_view message, ErrorKind kind) {
  clear_progress_line();
  const std::string line = fmt::format("purekv: error: {}\n", one_line(message));
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  return static_cast<int>(kind);
}

}  // namespace

std::string one_line(std::string_view text) {
  constexpr std::size_t kMost = 2000;
  std::string line;
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F)
      line += fmt::format("\\x{:02x}", byte);
    else
      line += c;
  }
  if (text.size() > kMost) line += "...";
  return line;
}

int report_exception() noexcept {
  // The outer handler is for the message itself: formatting it can run out of memory too.
  try {
    try {
      // An interrupted decoder or read may fail in words of its own.
      check_interrupt();
      throw;
    } catch (const Error& error) {
      return print_error(error.what(), error.kind());
    } catch (const std::bad_alloc&) {
      return print_error("out of memory; lower --frames, --fps, --max-pixels or --budget", ErrorKind::kResource);
    } catch (const std::exception& error) {
      return print_error(fmt::format("internal: {}", error.what()), ErrorKind::kInternal);
    } catch (...) {
      return print_error("internal: an exception of an unknown type", ErrorKind::kInternal);
    }
  } catch (...) {
    std::fputs("purekv: error: out of memory while reporting an error\n", stderr);
    return static_cast<int>(ErrorKind::kResource);
  }
}

}  // namespace purekv::app
