#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"

namespace purekv {

/// What an id stands for.
struct Piece {
  std::int32_t id = 0;
  bool is_special = false;  ///< left out of text unless asked for
  std::string bytes;
};

/// A tokenizer.json, checked.
struct TokenizerParts {
  bool nfc = false;
  PreTokenizer pre_tokenizer;
  BpeTables bpe;
  std::vector<AddedToken> added;
  std::vector<Piece> pieces;  ///< vocabulary and added tokens, ids ascending
};

/// Reads a regular file of at most 128 MiB. Throws Error(kInput) naming the file, the field, the value found and the
/// remedy where it is damaged or of a kind that is not supported: model BPE over bytes; normalizer NFC or none;
/// pre_tokenizer ByteLevel, or Sequence of Splits (Regex, Isolated) and a final ByteLevel; decoder ByteLevel;
/// post_processor ByteLevel or none; merges as "a b" or ["a", "b"].
TokenizerParts read_tokenizer_json(const std::string& path);

/// The piece of an id, null where there is none.
const Piece* find_piece(const std::vector<Piece>& pieces, std::int32_t id);

}  // namespace purekv
