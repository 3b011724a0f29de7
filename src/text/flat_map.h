#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

namespace purekv {

/// Hashes for FlatMap: all bits of the key reach the low ones.
struct FlatHash {
  std::size_t operator()(std::string_view key) const { return std::hash<std::string_view>()(key); }
  std::size_t operator()(std::uint64_t key) const {
    key = (key ^ (key >> 32U)) * 0x9E3779B97F4A7C15U;
    return key ^ (key >> 29U);
  }
};

/// A hash map of a size known beforehand, in one block: a lookup misses the cache once, where the nodes of
/// std::unordered_map miss three times. At real size that is half of a tokenizer's load and of a long word's merges.
template <class Key, class Value>
class FlatMap {
 public:
  /// Room for `count` entries; more must not be put.
  explicit FlatMap(std::size_t count = 0) : slots_(std::bit_ceil(2 * count + 1)) {}

  /// The value of `key`, null where there is none.
  [[nodiscard]] const Value* find(const Key& key) const {
    const Slot& slot = slots_[place(key)];
    return slot.is_used ? &slot.value : nullptr;
  }

  /// The place of `key`'s value and whether it is new; a value that was there stays.
  std::pair<Value*, bool> emplace(const Key& key, const Value& value) {
    Slot& slot = slots_[place(key)];
    const bool is_new = !slot.is_used;
    if (is_new) slot = {key, value, true};
    return {&slot.value, is_new};
  }

 private:
  struct Slot {
    Key key{};
    Value value{};
    bool is_used = false;
  };

  /// The slot that holds `key`, or the free one where it belongs. At most half of the slots are used.
  [[nodiscard]] std::size_t place(const Key& key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = FlatHash()(key) & mask;
    while (slots_[at].is_used && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace purekv
