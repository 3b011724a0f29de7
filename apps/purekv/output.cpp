#include "output.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "errors.h"
#include "interrupt.h"

namespace purekv::app {
namespace {

constexpr std::size_t kReadBytes = 1U << 16U;

[[noreturn]] void fail_output() {
  fail(ErrorKind::kResource, "cannot write standard output: {}; free some space or name another file",
       std::strerror(errno));
}

/// Bytes read, 0 at the end.
std::size_t read_some(char* into, std::size_t most) {
  while (true) {
    const ssize_t count = read(STDIN_FILENO, into, most);
    const int error = errno;
    check_interrupt();
    if (count >= 0) return static_cast<std::size_t>(count);
    if (error != EINTR) fail(ErrorKind::kInput, "cannot read standard input: {}", std::strerror(error));
  }
}

}  // namespace

void claim_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) != -1) continue;
    // Read-only for the outputs too: what is written there must fail, not vanish.
    if (open("/dev/null", O_RDONLY) != fd) _exit(static_cast<int>(ErrorKind::kResource));
  }
}

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_output();
}

void flush_out() {
  if (std::fflush(stdout) != 0) fail_output();
}

void close_out() {
  flush_out();
  if (std::ferror(stdout) != 0 || std::fclose(stdout) != 0) fail_output();
}

std::string read_input(std::string_view what, std::size_t most) {
  std::string text;
  std::array<char, kReadBytes> block{};
  while (const std::size_t count = read_some(block.data(), block.size())) {
    text.append(block.data(), count);
    if (text.size() > most) fail(ErrorKind::kInput, "{} is longer than {} bytes; shorten it", what, most);
  }
  return text;
}

bool LineReader::fill() {
  if (ended_) return false;
  buffer_.erase(0, at_);
  at_ = 0;
  const std::size_t held = buffer_.size();
  buffer_.resize(held + kReadBytes);
  const std::size_t count = read_some(buffer_.data() + held, kReadBytes);
  buffer_.resize(held + count);
  ended_ = count == 0;
  return !ended_;
}

bool LineReader::next(std::string& line) {
  constexpr std::size_t kMost = 1U << 26U;
  std::size_t searched = at_;
  std::size_t end = 0;
  while ((end = buffer_.find('\n', searched)) == std::string::npos) {
    searched = buffer_.size() - at_;  // fill() moves the unread part to the front
    if (searched > kMost)
      fail(ErrorKind::kInput, "line {} of standard input is longer than {} bytes; split it", number_ + 1, kMost);
    if (!fill()) break;
  }
  if (end == std::string::npos) end = buffer_.size();
  if (end == buffer_.size() && at_ == end) return false;
  line.assign(buffer_, at_, end - at_);
  at_ = std::min(end + 1, buffer_.size());
  ++number_;
  return true;
}

std::string read_file(const std::string& path, std::size_t most) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorKind::kInput, "cannot open {}: {}", path, std::strerror(errno));
  std::string text;
  std::array<char, kReadBytes> block{};
  while (file.read(block.data(), block.size()) || file.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > most) fail(ErrorKind::kInput, "{} is longer than {} bytes; split it", path, most);
  }
  if (file.bad()) fail(ErrorKind::kInput, "cannot read {}; a folder is no file", path);
  return text;
}

}  // namespace purekv::app
