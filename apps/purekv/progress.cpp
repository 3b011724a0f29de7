#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "interrupt.h"

namespace purekv::app {
namespace {

/// Errors are printed far from the printer that drew the line.
bool line_shown = false;

void print_error_stream(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

void clear_progress_line() noexcept {
  if (!line_shown) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  line_shown = false;
}

ProgressPrinter::ProgressPrinter(bool quiet)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1), last_(Clock::now()) {}

void ProgressPrinter::step(std::string_view stage, std::int64_t done, std::int64_t total) {
  if (quiet_) return;
  const auto now = Clock::now();
  if (terminal_) {
    print_error_stream(fmt::format("\r\x1b[K{} {}/{}", stage, done, total));
    line_shown = true;
    return;
  }
  constexpr auto kWithinStage = std::chrono::seconds(10);
  constexpr auto kStageEnd = std::chrono::seconds(2);
  if (now - last_ < (done < total ? kWithinStage : kStageEnd)) return;
  last_ = now;
  print_note(fmt::format("{} {}/{}", stage, done, total));
}

void ProgressPrinter::clear() {
  if (!quiet_) clear_progress_line();
}

Progress engine_progress(ProgressPrinter& printer) {
  Progress progress;
  progress.stop = &stop_flag();
  progress.step = [&printer](std::string_view stage, std::int64_t done, std::int64_t total) {
    printer.step(stage, done, total);
  };
  return progress;
}

void print_note(std::string_view text) {
  clear_progress_line();
  print_error_stream(fmt::format("purekv: {}\n", text));
}

void print_table(std::string_view lines) {
  clear_progress_line();
  print_error_stream(lines);
}

}  // namespace purekv::app
