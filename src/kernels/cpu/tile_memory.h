#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

/// At least `floats` floats of the calling thread's own, 64-byte aligned, contents undefined; good
/// until the next call on the thread. At most a few MB a thread stay taken.
inline float* tile_memory(std::int64_t floats) {
  constexpr std::size_t kAlign = 16;
  static thread_local std::vector<float> memory;
  const auto size = static_cast<std::size_t>(floats) + kAlign;
  if (memory.size() < size) {
    memory.clear();
    memory.resize(size);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data()) / sizeof(float);
  return memory.data() + (kAlign - address % kAlign) % kAlign;
}

}  // namespace purekv
