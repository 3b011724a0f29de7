#include "media/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/fail.h"

namespace purekv {

InputFile::InputFile(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {  // NONBLOCK: a FIFO would wait
  if (fd_ < 0) fail(ErrorKind::kInput, "{}: {}; give a file that can be read", path, std::strerror(errno));
  struct stat status {};
  const char* fault = nullptr;
  if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode))
    fault = "is not a regular file; copy the medium into one";
  else if (status.st_size == 0)
    fault = "is empty; copy the medium again";
  if (fault != nullptr) {
    ::close(fd_);
    fail(ErrorKind::kInput, "{}: {}", path, fault);
  }
  size_ = status.st_size;
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::size_t InputFile::read_some(std::int64_t offset, void* out, std::size_t bytes) const {
  if (offset >= size_) return 0;
  bytes = std::min(bytes, static_cast<std::size_t>(size_ - offset));
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(fd_, static_cast<char*>(out) + done, bytes - done,
                                static_cast<off_t>(offset + static_cast<std::int64_t>(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kInput, "{}: byte {}: {}; copy the file again", path_, offset, std::strerror(errno));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

void InputFile::read_exactly(std::int64_t offset, void* out, std::size_t bytes) const {
  const std::size_t got = read_some(offset, out, bytes);
  if (got != bytes)
    fail(ErrorKind::kInput, "{}: ends at byte {}, {} more are needed; copy the file again", path_,
         offset + static_cast<std::int64_t>(got), bytes - got);
}

std::vector<std::uint8_t> InputFile::head(std::size_t count) const {
  std::vector<std::uint8_t> bytes(count);
  bytes.resize(read_some(0, bytes.data(), count));
  return bytes;
}

}  // namespace purekv
