#include "media/codec/bmp_runs.h"

#include <algorithm>
#include <cstddef>

namespace purekv {
namespace {

enum Escape : std::uint8_t { kEndOfLine = 0, kEndOfPicture = 1, kMove = 2 };

class RunReader {
 public:
  RunReader(std::span<const std::uint8_t> data, FrameSize size, bool nibbles)
      : data_(data),
        width_(static_cast<std::size_t>(size.width)),
        nibbles_(nibbles),
        pixels_(width_ * static_cast<std::size_t>(size.height)) {}

  std::vector<std::uint8_t> read() {
    while (at_ + 2 <= data_.size() && out_ < pixels_.size()) {
      const std::uint8_t count = data_[at_];
      const std::uint8_t value = data_[at_ + 1];
      at_ += 2;
      if (count > 0)
        repeat(count, value);
      else if (!escape(value))
        break;
    }
    return std::move(pixels_);
  }

 private:
  [[nodiscard]] std::uint8_t index(std::uint8_t byte, std::size_t i) const {
    if (!nibbles_) return byte;
    return i % 2 == 0 ? static_cast<std::uint8_t>(byte >> 4U) : static_cast<std::uint8_t>(byte & 15U);
  }

  /// A run stops at its row's end.
  void repeat(std::size_t count, std::uint8_t value) {
    count = std::min(count, width_ - out_ % width_);
    for (std::size_t i = 0; i < count; ++i) pixels_[out_++] = index(value, i);
  }

  bool escape(std::uint8_t code) {
    if (code == kEndOfPicture) return false;
    if (code == kEndOfLine) {
      out_ = (out_ + width_ - 1) / width_ * width_;
    } else if (code == kMove) {
      if (at_ + 2 > data_.size()) return false;
      out_ += data_[at_] + data_[at_ + 1] * width_;
      at_ += 2;
    } else {
      copy(code);
    }
    return true;
  }

  void copy(std::size_t count) {
    const std::size_t bytes = nibbles_ ? (count + 1) / 2 : count;
    for (std::size_t i = 0; i < count && out_ < pixels_.size(); ++i) {
      const std::size_t from = at_ + (nibbles_ ? i / 2 : i);
      if (from < data_.size()) pixels_[out_++] = index(data_[from], i);
    }
    at_ += bytes + bytes % 2;
  }

  std::span<const std::uint8_t> data_;
  std::size_t width_;
  bool nibbles_;
  std::vector<std::uint8_t> pixels_;
  std::size_t at_ = 0, out_ = 0;
};

}  // namespace

std::vector<std::uint8_t> unpack_bmp_runs(std::span<const std::uint8_t> data, FrameSize size, bool nibbles) {
  return RunReader(data, size, nibbles).read();
}

}  // namespace purekv
