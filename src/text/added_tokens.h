#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace purekv {

/// One entry of `added_tokens`; the flags are the file's.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  std::string pattern;  ///< what is looked for: the content, normalized where `normalized`
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

/// A stretch of text: an added token's id, or text that is still to be encoded.
struct TextPart {
  std::int32_t id = -1;  ///< -1: text
  std::string_view text;
};

/// Finds added tokens in text: leftmost first, the longest of those. O(text bytes x longest token).
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  void add(const AddedToken& token);

  /// Appends the parts of `text` in order. A token with single_word counts only between non-word characters; lstrip
  /// and rstrip take the white space beside it.
  void split(std::string_view text, std::vector<TextPart>& parts) const;

 private:
  /// Length of the longest token at the start of `text` and which; 0 where there is none.
  struct Match {
    std::size_t length = 0, token = 0;
  };
  [[nodiscard]] Match match(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;  ///< trie: node << 8 | byte -> node
  std::vector<std::int64_t> ends_ = {-1};                   ///< [node] the token that ends there, -1: none
};

}  // namespace purekv
