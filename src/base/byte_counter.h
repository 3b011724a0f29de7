#pragma once

#include <algorithm>
#include <cstdint>

namespace purekv {

/// Bytes alive and the most ever alive, counted where memory is taken and given back.
class ByteCounter {
 public:
  void take(std::int64_t bytes) {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }
  void give(std::int64_t bytes) { live_ -= bytes; }
  [[nodiscard]] std::int64_t live() const { return live_; }
  [[nodiscard]] std::int64_t peak() const { return peak_; }

 private:
  std::int64_t live_ = 0, peak_ = 0;
};

}  // namespace purekv
