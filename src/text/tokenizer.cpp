#include "purekv/tokenizer.h"

#include <unordered_map>
#include <utility>

#include "base/fail.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace purekv {
namespace {

/// Positions within a word are int32.
constexpr std::size_t kMaxTextBytes = 1U << 30U;

void check_text(std::string_view text) {
  if (text.size() > kMaxTextBytes)
    fail(ErrorKind::kInput, "the text has {} bytes, at most {} can be tokenized; shorten it", text.size(),
         kMaxTextBytes);
  const std::size_t bad = find_ill_formed(text);
  if (bad != std::string_view::npos)
    fail(ErrorKind::kInput, "the text is not UTF-8: byte 0x{:02X} at offset {}; convert it",
         static_cast<unsigned char>(text[bad]), bad);
}

}  // namespace

struct Tokenizer::State {
  explicit State(TokenizerParts parts)
      : nfc(parts.nfc),
        pre_tokenizer(std::move(parts.pre_tokenizer)),
        bpe(std::move(parts.bpe)),
        pieces(std::move(parts.pieces)) {
    for (const AddedToken& token : parts.added) {
      added_ids.emplace(token.content, token.id);
      (token.normalized ? normalized : as_written).add(token);
    }
  }

  [[nodiscard]] std::string normalize(std::string_view text) const { return nfc ? to_nfc(text) : std::string(text); }

  /// Text without added tokens, normalized already.
  void encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
    const PreTokenizer::Words split = pre_tokenizer.split(text);
    for (const std::string_view word : split.words) bpe.encode(word, ids);
  }

  /// Tokens to be found as written come first, the normalized ones in what is left.
  void encode_with_added(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<TextPart> parts;
    as_written.split(text, parts);
    std::vector<TextPart> inner;
    for (const TextPart& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      const std::string prepared = normalize(part.text);
      inner.clear();
      normalized.split(prepared, inner);
      for (const TextPart& piece : inner) {
        if (piece.id >= 0)
          ids.push_back(piece.id);
        else
          encode_plain(piece.text, ids);
      }
    }
  }

  bool nfc;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  AddedTokenFinder as_written, normalized;
  std::vector<Piece> pieces;
  std::unordered_map<std::string, std::int32_t> added_ids;
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::built_in() { return true; }

Tokenizer Tokenizer::load(const std::string& path) {
  return Tokenizer(std::make_unique<State>(read_tokenizer_json(path)));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8, bool special) const {
  check_text(utf8);
  std::vector<std::int32_t> ids;
  if (special)
    state_->encode_with_added(utf8, ids);
  else
    state_->encode_plain(state_->normalize(utf8), ids);
  return ids;
}

// Bytes are joined before they are read as UTF-8: a character may be spread over ids.
std::string Tokenizer::decode(const std::vector<std::int32_t>& ids, bool special) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const Piece* const piece = find_piece(state_->pieces, id);
    if (piece != nullptr && (special || !piece->is_special)) bytes += piece->bytes;
  }
  std::string text;
  append_lossy(text, bytes, false);
  return text;
}

std::string Tokenizer::bytes_of(std::int32_t id) const {
  const Piece* const piece = find_piece(state_->pieces, id);
  return piece == nullptr || piece->is_special ? std::string() : piece->bytes;
}

std::int32_t Tokenizer::added_id(std::string_view text) const {
  const auto it = state_->added_ids.find(std::string(text));
  return it == state_->added_ids.end() ? -1 : it->second;
}

}  // namespace purekv
