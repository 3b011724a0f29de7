#include "text/tokenizer_json.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <unordered_set>
#include <utility>

#include "base/fail.h"
#include "text/byte_alphabet.h"
#include "text/document.h"
#include "text/json_node.h"
#include "text/message.h"
#include "text/normalizer.h"
#include "text/utf8.h"

namespace purekv {
namespace {

constexpr std::size_t kMaxFileBytes = 128U << 20U;
constexpr std::size_t kMaxPathShown = 1000;
/// Qwen's longest token is spelled in 256 bytes.
constexpr std::size_t kMaxTokenBytes = 1U << 16U;
/// The finder's work is text times the longest added token.
constexpr std::size_t kMaxAddedBytes = 1024;
constexpr std::size_t kMaxSteps = 16;
constexpr std::string_view kByteLevel =
    "supported are ByteLevel, or a Sequence of Splits by Regex, Isolated, that ends with ByteLevel";

/// The bytes behind a token's letters, nothing where one is no letter of the byte alphabet.
std::optional<std::string> from_alphabet(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const Utf8Step step = read_utf8(token.substr(at));
    if (step.code >= ByteAlphabet::kEnd || kByteAlphabet.byte_of[step.code] < 0) return std::nullopt;
    bytes += static_cast<char>(kByteAlphabet.byte_of[step.code]);
    at += step.length;
  }
  return bytes;
}

/// The bytes that a token prints: the reference's decoder takes a token with one foreign letter as it is.
std::string token_bytes(const std::string& token) { return from_alphabet(token).value_or(token); }

/// Token text -> id; views of the document.
using Vocabulary = FlatMap<std::string_view, std::int32_t>;

void read_normalizer(const JsonNode& node, TokenizerParts& parts) {
  if (node.is_null()) return;
  if (node.type() != "NFC") node.field("type").refuse("supported are NFC and none");
  parts.nfc = true;
}

void read_split(const JsonNode& node, TokenizerParts& parts) {
  const JsonNode behavior = node.field("behavior");
  if (behavior.text() != "Isolated") behavior.refuse("supported is Isolated");
  if (node.field("invert").flag_or(false)) node.field("invert").refuse("supported is false");
  const JsonNode pattern = node.field("pattern").field("Regex");
  if (pattern.is_null()) pattern.refuse("supported are patterns of the kind Regex");
  parts.pre_tokenizer.add_split(SplitPattern(pattern.text(), pattern.place()));
}

void read_byte_level(const JsonNode& node, TokenizerParts& parts) {
  if (node.field("add_prefix_space").flag_or(true)) parts.pre_tokenizer.add_prefix_space();
  if (node.field("use_regex").flag_or(true))
    parts.pre_tokenizer.add_split(SplitPattern(byte_level_pattern(), node.place()));
}

void read_pre_tokenizer(const JsonNode& node, TokenizerParts& parts) {
  if (node.is_null()) node.refuse(kByteLevel);
  if (node.type() == "ByteLevel") return read_byte_level(node, parts);
  if (node.type() != "Sequence") node.field("type").refuse(kByteLevel);
  const JsonNode list = node.field("pretokenizers");
  list.require_array();
  const std::size_t count = list.value().size();
  if (count == 0 || count > kMaxSteps) list.refuse(kByteLevel);
  for (std::size_t i = 0; i < count; ++i) {
    const JsonNode step = list.item(i);
    const std::string type = step.type();
    const bool is_last = i + 1 == count;
    if (type != (is_last ? "ByteLevel" : "Split")) step.field("type").refuse(kByteLevel);
    is_last ? read_byte_level(step, parts) : read_split(step, parts);
  }
}

void refuse_other_ends(const JsonNode& root) {
  const JsonNode post_processor = root.field("post_processor");
  if (!post_processor.is_null() && post_processor.type() != "ByteLevel")
    post_processor.field("type").refuse("supported are ByteLevel and none");
  const JsonNode decoder = root.field("decoder");
  if (decoder.is_null() || decoder.type() != "ByteLevel") decoder.refuse("supported is the type ByteLevel");
}

/// unk_token, fuse_unk and byte_fallback say what becomes of a byte without a token; here that is an error, so they
/// never act. Truncation and padding of the file are the reference's batching aids and are left aside as well.
void refuse_model_options(const JsonNode& model) {
  if (model.type() != "BPE") model.field("type").refuse("supported is BPE");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonNode affix = model.field(name);
    if (!affix.is_null() && !affix.text().empty()) affix.refuse("supported is none");
  }
  const JsonNode dropout = model.field("dropout");
  if (!dropout.is_null() && dropout.value() != 0) dropout.refuse("supported is none, since dropout is random");
}

template <class Pieces>
auto lower_bound(Pieces& pieces, std::int32_t id) {
  return std::lower_bound(pieces.begin(), pieces.end(), id,
                          [](const Piece& piece, std::int32_t wanted) { return piece.id < wanted; });
}

/// Sorts by id and refuses an id that two tokens have.
void order_pieces(const std::string& place, std::vector<Piece>& pieces) {
  const auto before = [](const Piece& a, const Piece& b) { return a.id < b.id; };
  if (!std::is_sorted(pieces.begin(), pieces.end(), before)) std::stable_sort(pieces.begin(), pieces.end(), before);
  const auto same = [](const Piece& a, const Piece& b) { return a.id == b.id; };
  const auto twice = std::adjacent_find(pieces.begin(), pieces.end(), same);
  if (twice != pieces.end())
    fail(ErrorKind::kInput, "{}: model.vocab and added_tokens give the id {} to \"{}\" and \"{}\": copy the file again",
         place, twice->id, shown(twice->bytes), shown(std::next(twice)->bytes));
}

void check_length(const std::string& place, std::string_view token, std::size_t most) {
  if (token.size() > most)
    fail(ErrorKind::kInput, "{} has a token of {} bytes, \"{}\": at most {} are supported; copy the file again", place,
         token.size(), shown(token), most);
}

Vocabulary read_vocabulary(const JsonNode& model, const TokenizerDocument& document, TokenizerParts& parts) {
  const JsonNode node = model.field("vocab");
  node.require_object();
  const std::string& place = node.place();
  if (document.vocab.empty()) fail(ErrorKind::kInput, "{} is empty: copy the file again", place);
  Vocabulary ids(document.vocab.size());
  parts.pieces.reserve(document.vocab.size());
  parts.bpe.byte_ids.fill(-1);
  const bool ignore_merges = model.field("ignore_merges").flag_or(false);
  for (const auto& [token, id] : document.vocab) {
    check_length(place, token, kMaxTokenBytes);
    if (!ids.emplace(std::string_view(token), id).second)
      fail(ErrorKind::kInput, "{} has \"{}\" twice: copy the file again", place, shown(token));
    const std::optional<std::string> bytes = from_alphabet(token);
    parts.pieces.push_back({id, false, bytes.value_or(token)});
    if (!bytes) continue;
    if (bytes->size() == 1) parts.bpe.byte_ids[static_cast<unsigned char>(bytes->front())] = id;
    if (ignore_merges) parts.bpe.whole.emplace(*bytes, id);
  }
  return ids;
}

void read_merges(const JsonNode& model, const TokenizerDocument& document, const Vocabulary& ids,
                 TokenizerParts& parts) {
  const JsonNode node = model.field("merges");
  node.require_array();
  parts.bpe.merges = FlatMap<std::uint64_t, Merge>(document.merges.size());
  std::string joined;
  std::int32_t rank = 0;
  for (const auto& [left, right] : document.merges) {
    joined.assign(left).append(right);
    const auto id_of = [&](const std::string& token) {
      const std::int32_t* const id = ids.find(token);
      if (id == nullptr)
        fail(ErrorKind::kInput, "{}[{}] needs the token \"{}\", which model.vocab lacks: copy the file again",
             node.place(), rank, shown(token));
      return *id;
    };
    // Of a pair that stands twice the reference takes the later rank.
    const Merge merge = {rank, id_of(joined)};
    *parts.bpe.merges.emplace(pair_key(id_of(left), id_of(right)), merge).first = merge;
    ++rank;
  }
}

AddedToken read_added_token(const JsonNode& node, bool nfc) {
  AddedToken token;
  token.id = node.field("id").id();
  token.content = node.field("content").text();
  if (token.content.empty()) node.field("content").refuse("a token's text belongs there; copy the file again");
  token.special = node.field("special").flag_or(false);
  // The reference's own default: special tokens are looked for in the text as it is.
  token.normalized = node.field("normalized").flag_or(!token.special);
  token.pattern = token.normalized && nfc ? to_nfc(token.content) : token.content;
  token.lstrip = node.field("lstrip").flag_or(false);
  token.rstrip = node.field("rstrip").flag_or(false);
  token.single_word = node.field("single_word").flag_or(false);
  return token;
}

void read_added_tokens(const JsonNode& root, const Vocabulary& ids, TokenizerParts& parts) {
  const JsonNode list = root.field("added_tokens");
  if (!list.is_null()) list.require_array();
  std::unordered_set<std::string> seen;
  std::unordered_set<std::string> patterns;
  std::unordered_set<std::string> specials;
  for (std::size_t i = 0; i < list.value().size(); ++i) {
    const JsonNode node = list.item(i);
    AddedToken token = read_added_token(node, parts.nfc);
    check_length(list.place(), token.content, kMaxAddedBytes);
    const std::string looked_for = (token.normalized ? "n" : "w") + token.pattern;
    if (!seen.insert(token.content).second || !patterns.insert(looked_for).second)
      node.field("content").refuse("another added token has this text; copy the file again");
    const std::int32_t* const known = ids.find(token.content);
    if (known != nullptr && *known != token.id)
      node.field("id").refuse(
          fmt::format("model.vocab gives \"{}\" the id {}; copy the file again", shown(token.content), *known));
    // Two entries of one id are found when the pieces are put in order.
    if (known == nullptr) parts.pieces.push_back({token.id, false, token_bytes(token.content)});
    if (token.special) specials.insert(token.content);
    parts.added.push_back(std::move(token));
  }
  order_pieces(root.place(), parts.pieces);
  // The reference prints what it looks for, and leaves that out where a special token has this text.
  for (const AddedToken& token : parts.added) {
    Piece& piece = *lower_bound(parts.pieces, token.id);
    piece.bytes = token_bytes(token.pattern);
    piece.is_special = specials.count(token.pattern) > 0;
  }
}

}  // namespace

const Piece* find_piece(const std::vector<Piece>& pieces, std::int32_t id) {
  const auto it = lower_bound(pieces, id);
  return it == pieces.end() || it->id != id ? nullptr : &*it;
}

TokenizerParts read_tokenizer_json(const std::string& path) {
  const std::string place = shown(path, kMaxPathShown);
  const TokenizerDocument document = parse_tokenizer_document(read_regular_file(path, kMaxFileBytes), place);
  const JsonNode root(document.root, place, ": ");
  root.require_object();
  TokenizerParts parts;
  const JsonNode model = root.field("model");
  refuse_model_options(model);
  read_normalizer(root.field("normalizer"), parts);
  read_pre_tokenizer(root.field("pre_tokenizer"), parts);
  refuse_other_ends(root);
  const Vocabulary ids = read_vocabulary(model, document, parts);
  read_merges(model, document, ids, parts);
  read_added_tokens(root, ids, parts);
  return parts;
}

}  // namespace purekv
