#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

/// Text to ids and back, from a tokenizer.json of the byte-level BPE kind (docs/model.md).
class Tokenizer {
 public:
  /// Throws Error(kInput) naming the file, the field and the value found.
  static Tokenizer load(const std::string& path);
  /// Whether this build can load one (PUREKV_TEXT).
  static bool built_in();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// `special`: added tokens written in the text become their ids; otherwise text is only text.
  /// Throws Error(kInput) where `utf8` is not well-formed.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view utf8, bool special) const;

  /// Bytes of all ids joined, one U+FFFD for each maximal ill-formed part. Ids that the
  /// vocabulary lacks decode to nothing; ids marked special only where `special`.
  [[nodiscard]] std::string decode(const std::vector<std::int32_t>& ids, bool special) const;

  /// Raw bytes of one id (not always whole code points); empty for unknown and special ids.
  [[nodiscard]] std::string bytes_of(std::int32_t id) const;

  /// Id of an added token by its exact text, -1 where there is none.
  [[nodiscard]] std::int32_t added_id(std::string_view text) const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Holds back an incomplete UTF-8 tail so that what is printed is always whole code points.
class Utf8Stream {
 public:
  /// Adds bytes, returns what is complete (ill-formed parts become U+FFFD).
  std::string push(std::string_view bytes);
  /// What is left at the end, as U+FFFD.
  std::string finish();

 private:
  std::string tail_;
};

}  // namespace purekv
