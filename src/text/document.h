#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace purekv {

/// A tokenizer.json as read, nothing but its syntax checked. The two large parts of the model stand in lists of their
/// own, in the file's order; a document tree of them costs four times the time and memory.
struct TokenizerDocument {
  nlohmann::json root;  ///< the rest: an empty object for model.vocab, an empty list for model.merges
  std::vector<std::pair<std::string, std::int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  ///< each once "a b" or ["a", "b"]
};

/// Parses `text`; `place` names it. Throws Error(kInput) where it is no JSON, has a key twice, is nested deeper than
/// 64, holds over 4 million values, or where an entry of vocab or merges is of another type.
TokenizerDocument parse_tokenizer_document(const std::string& text, const std::string& place);

}  // namespace purekv
