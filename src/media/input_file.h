#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace purekv {

/// A regular file open for reading, of the size it had then: one that grows has no end to run after.
class InputFile {
 public:
  /// `path` is a file's name and nothing else. Throws Error(kInput) for what cannot be opened, is no
  /// regular file (a FIFO or device would wait or never end) or is empty.
  explicit InputFile(const std::string& path);
  InputFile(InputFile&& other) noexcept;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  /// Bytes read at `offset`: fewer than `bytes` only at the end of the file. Throws Error(kInput).
  std::size_t read_some(std::int64_t offset, void* out, std::size_t bytes) const;
  /// The same, where fewer is an error: the file was cut while it is read.
  void read_exactly(std::int64_t offset, void* out, std::size_t bytes) const;
  /// The first bytes, at most `count`: what formats are known by.
  [[nodiscard]] std::vector<std::uint8_t> head(std::size_t count) const;

 private:
  std::string path_;
  int fd_ = -1;
  std::int64_t size_ = 0;
};

}  // namespace purekv
