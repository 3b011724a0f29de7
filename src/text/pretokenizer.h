#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace purekv {

/// A split pattern of tokenizer.json (Oniguruma, Ruby syntax) run by PCRE2. Patterns that the two read differently
/// are refused. Thread-safe.
class SplitPattern {
 public:
  /// Throws Error(kInput) naming `place`, the pattern and what is wrong with it.
  SplitPattern(const std::string& pattern, const std::string& place);
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;
  ~SplitPattern();

  /// Appends the matches in `piece` and what lies between them, in order, none empty (behaviour "Isolated").
  void split(std::string_view piece, std::vector<std::string_view>& out) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

/// The pattern of a ByteLevel pre-tokenizer with `use_regex`.
std::string byte_level_pattern();

/// The steps of a pre_tokenizer, in order; the mapping of bytes to letters is the model's work.
class PreTokenizer {
 public:
  void add_split(SplitPattern pattern) { steps_.emplace_back(std::move(pattern)); }
  /// Every piece that does not begin with a space gets one.
  void add_prefix_space() { steps_.emplace_back(std::nullopt); }

  struct Words {
    std::vector<std::string_view> words;  ///< into the text or `owned`
    std::deque<std::string> owned;        ///< pieces that begin with a space of ours
  };
  [[nodiscard]] Words split(std::string_view text) const;

 private:
  std::vector<std::optional<SplitPattern>> steps_;  ///< empty: the prefix space
};

}  // namespace purekv
