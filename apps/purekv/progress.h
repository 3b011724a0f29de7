#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "purekv/engine.h"

namespace purekv::app {

/// Tells on stderr how far the work is: one line that overwrites itself on a terminal, else one line
/// a stage that took 2 s and one for every 10 s within a stage. An early error stands alone.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(bool quiet);
  void step(std::string_view stage, std::int64_t done, std::int64_t total);
  /// Takes the line off the terminal: before an answer is printed.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool quiet_, terminal_;
  Clock::time_point last_;
};

/// What the engine is given: steps go to `printer`, which must outlive the work; Ctrl-C stops it.
Progress engine_progress(ProgressPrinter& printer);

/// Takes a progress line off the terminal, if there is one: before an error is printed.
void clear_progress_line() noexcept;

/// One plain line on stderr.
void print_note(std::string_view text);
/// Lines as they are, on stderr.
void print_table(std::string_view lines);

}  // namespace purekv::app
