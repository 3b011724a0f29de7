#include "text/tokenizer_json.h"

#include <optional>
#include <unordered_set>
#include <utility>

#include "base/fail.h"
#include "text/byte_alphabet.h"
#include "text/document.h"
#include "text/json_node.h"
#include "text/message.h"
#include "text/utf8.h"

namespace purekv {
namespace {

constexpr std::size_t kMaxFileBytes = 128U << 20U;
constexpr std::size_t kMaxPathShown = 1000;
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

/// Token text -> id; views of the document.
using Vocabulary = std::unordered_map<std::string_view, std::int32_t>;

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

void refuse_model_options(const JsonNode& model) {
  if (model.type() != "BPE") model.field("type").refuse("supported is BPE");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonNode affix = model.field(name);
    if (!affix.is_null() && !affix.text().empty()) affix.refuse("supported is none");
  }
  const JsonNode dropout = model.field("dropout");
  if (!dropout.is_null() && dropout.value() != 0) dropout.refuse("supported is none, since dropout is random");
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
  Vocabulary ids;
  ids.reserve(document.vocab.size());
  parts.pieces.reserve(document.vocab.size());
  parts.bpe.byte_ids.fill(-1);
  const bool ignore_merges = model.field("ignore_merges").flag_or(false);
  for (const auto& [token, id] : document.vocab) {
    check_length(place, token, kMaxTokenBytes);
    if (!ids.emplace(token, id).second)
      fail(ErrorKind::kInput, "{} has \"{}\" twice: copy the file again", place, shown(token));
    const std::optional<std::string> bytes = from_alphabet(token);
    if (!parts.pieces.try_emplace(id, Piece{bytes.value_or(token), false}).second)
      fail(ErrorKind::kInput, "{} of \"{}\" is {}, the id of another token too: copy the file again", place,
           shown(token), id);
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
  parts.bpe.merges.reserve(document.merges.size());
  std::string joined;
  std::int32_t rank = 0;
  for (const auto& [left, right] : document.merges) {
    joined.assign(left).append(right);
    const auto id_of = [&](const std::string& token) {
      const auto it = ids.find(token);
      if (it == ids.end())
        fail(ErrorKind::kInput, "{}[{}] needs the token \"{}\", which model.vocab lacks: copy the file again",
             node.place(), rank, shown(token));
      return it->second;
    };
    // Of a pair that stands twice the reference takes the later rank.
    parts.bpe.merges[pair_key(id_of(left), id_of(right))] = {rank, id_of(joined)};
    ++rank;
  }
}

AddedToken read_added_token(const JsonNode& node) {
  AddedToken token;
  token.id = node.field("id").id();
  token.content = node.field("content").text();
  if (token.content.empty()) node.field("content").refuse("a token's text belongs there; copy the file again");
  token.special = node.field("special").flag_or(false);
  // The reference's own default: special tokens are looked for in the text as it is.
  token.normalized = node.field("normalized").flag_or(!token.special);
  token.lstrip = node.field("lstrip").flag_or(false);
  token.rstrip = node.field("rstrip").flag_or(false);
  token.single_word = node.field("single_word").flag_or(false);
  return token;
}

void read_added_tokens(const JsonNode& root, const Vocabulary& ids, TokenizerParts& parts) {
  const JsonNode list = root.field("added_tokens");
  if (list.is_null()) return;
  list.require_array();
  std::unordered_set<std::string> seen;
  for (std::size_t i = 0; i < list.value().size(); ++i) {
    const JsonNode node = list.item(i);
    AddedToken token = read_added_token(node);
    check_length(list.place(), token.content, kMaxAddedBytes);
    if (!seen.insert(token.content).second) node.field("content").refuse("it stands twice; copy the file again");
    const auto known = ids.find(token.content);
    if (known == ids.end()) {
      if (!parts.pieces.try_emplace(token.id, Piece{token_bytes(token.content), token.special}).second)
        node.field("id").refuse("another token has this id; copy the file again");
    } else if (known->second == token.id) {
      parts.pieces[token.id].is_special = token.special;
    } else {
      node.field("id").refuse(
          fmt::format("model.vocab gives \"{}\" the id {}; copy the file again", shown(token.content), known->second));
    }
    parts.added.push_back(std::move(token));
  }
}

}  // namespace

std::string token_bytes(std::string_view token) { return from_alphabet(token).value_or(std::string(token)); }

TokenizerParts read_tokenizer_json(const std::string& path) {
  const std::string place = shown(path, kMaxPathShown);
  const TokenizerDocument document = parse_tokenizer_document(read_regular_file(path, kMaxFileBytes), place);
  const JsonNode root(document.root, place);
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
