#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace purekv::app {

/// Opens /dev/null for each standard stream that the caller closed, so that no file of ours gets its
/// number and is written over.
void claim_standard_streams();

/// Standard output, checked: each throws Error(kResource) where it cannot be written.
void write_out(std::string_view text);
void flush_out();
/// Flushes and closes; the last thing a command does. A full disk may show only here.
void close_out();

/// All of standard input. Throws Error(kInput) naming `what` where it is longer than `most` bytes or
/// cannot be read, Error(kInterrupted) on Ctrl-C.
std::string read_input(std::string_view what, std::size_t most);

/// Lines of standard input, ended by LF; the last needs none.
class LineReader {
 public:
  /// False at the end. Throws like read_input.
  bool next(std::string& line);
  [[nodiscard]] std::int64_t number() const { return number_; }  ///< of the last line, from 1

 private:
  bool fill();

  std::string buffer_;
  std::size_t at_ = 0;
  std::int64_t number_ = 0;
  bool ended_ = false;
};

/// A file whole. Throws Error(kInput) naming it where it cannot be read or passes `most` bytes.
std::string read_file(const std::string& path, std::size_t most);

}  // namespace purekv::app
