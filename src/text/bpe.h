#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/flat_map.h"

namespace purekv {

/// What two neighbours become, and when: the lowest rank of a word goes first.
struct Merge {
  std::int32_t rank = 0, id = 0;
};

struct BpeTables {
  std::array<std::int32_t, 256> byte_ids{};             ///< -1: the vocabulary has no token of this byte
  FlatMap<std::uint64_t, Merge> merges;                 ///< by `pair_key`
  std::unordered_map<std::string, std::int32_t> whole;  ///< raw bytes -> id, filled where merges are ignored for them
};

constexpr std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

/// Byte-pair encoding: of all neighbours that merge, the lowest rank first, of equals the leftmost, until none merges.
/// O(n log n) for a word of n bytes, in at most 44 n bytes of memory.
class Bpe {
 public:
  explicit Bpe(BpeTables tables) : tables_(std::move(tables)) {}

  /// Appends the ids of `word` (raw bytes, below 2^31). Throws Error(kInput) on a byte that the vocabulary lacks.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  BpeTables tables_;
};

}  // namespace purekv
