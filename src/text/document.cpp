#include "text/document.h"

#include <limits>
#include <optional>

#include "base/fail.h"
#include "text/json_node.h"
#include "text/message.h"

namespace purekv {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxValues = 4'000'000;

/// Takes the parser's events one at a time (the interface of nlohmann's SAX handlers).
class DocumentBuilder {
 public:
  explicit DocumentBuilder(const std::string& place) : place_(place) {}

  TokenizerDocument take() { return std::move(document_); }

  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(json::number_integer_t value) { return scalar(value); }
  bool number_unsigned(json::number_unsigned_t value) { return scalar(value); }
  bool number_float(json::number_float_t value, const std::string& /*text*/) { return scalar(value); }
  bool binary(json::binary_t& /*value*/) { return false; }
  bool string(std::string& value) {
    if (where_ == Where::kPair) return merge_part(std::move(value));
    if (where_ == Where::kMerges) return spelled_merge(value);
    return scalar(std::move(value));
  }
  bool key(std::string& name) {
    count();
    if (where_ == Where::kTree && stack_.back()->contains(name))
      fail(ErrorKind::kInput, "{}: the key \"{}\" stands twice in one object: keep one of them", place_, shown(name));
    key_ = std::move(name);
    return true;
  }
  bool start_object(std::size_t /*size*/) {
    if (where_ != Where::kTree) refuse_entry(json::object());
    const bool is_vocab = in_model() && key_ == "vocab";
    push(json::object());
    if (is_vocab) where_ = Where::kVocab;
    return true;
  }
  bool end_object() {
    where_ = Where::kTree;
    stack_.pop_back();
    return true;
  }
  bool start_array(std::size_t /*size*/) {
    if (where_ == Where::kMerges) {
      count();
      where_ = Where::kPair;
      return true;
    }
    if (where_ != Where::kTree) refuse_entry(json::array());
    const bool is_merges = in_model() && key_ == "merges";
    push(json::array());
    if (is_merges) where_ = Where::kMerges;
    return true;
  }
  bool end_array() {
    if (where_ == Where::kPair) return end_pair();
    where_ = Where::kTree;
    stack_.pop_back();
    return true;
  }
  bool parse_error(std::size_t at, const std::string& /*token*/, const json::exception& error) const {
    // 406: a number that no double can hold; the rest is syntax.
    if (error.id == 406)
      fail(ErrorKind::kInput, "{}: holds a number out of range at byte {}: copy the file again", place_, at);
    fail(ErrorKind::kInput, "{}: no valid JSON at byte {}: copy the file again", place_, at);
  }

 private:
  /// In which part the parser is: the tree, an entry of vocab or merges, or the list of one merge.
  enum class Where { kTree, kVocab, kMerges, kPair };

  void count() {
    if (++values_ > kMaxValues)
      fail(ErrorKind::kInput, "{}: holds more than {} values: copy the file again", place_, kMaxValues);
  }

  /// Whether the value to come is a field of the object `model`.
  [[nodiscard]] bool in_model() const {
    return stack_.size() == 2 && model_ == stack_.back() && stack_.back()->is_object();
  }

  /// Adds to the innermost open container. Its address holds while it is open: a list grows only by its last child.
  json* put(json value) {
    count();
    if (stack_.empty()) return &(document_.root = std::move(value));
    json& parent = *stack_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    return &(parent[key_] = std::move(value));
  }

  void push(json value) {
    if (stack_.size() == kMaxDepth)
      fail(ErrorKind::kInput, "{}: is nested deeper than {}: copy the file again", place_, kMaxDepth);
    const bool is_model = stack_.size() == 1 && key_ == "model";
    stack_.push_back(put(std::move(value)));
    if (is_model) model_ = stack_.back();
  }

  bool scalar(json value) {
    if (where_ == Where::kTree) {
      put(std::move(value));
      return true;
    }
    if (where_ != Where::kVocab) refuse_entry(value);
    count();
    const JsonNode node(value, place_);
    const std::optional<std::int32_t> id = node.as_id();
    if (!id) refuse_entry(value);
    document_.vocab.emplace_back(std::move(key_), *id);
    return true;
  }

  bool spelled_merge(const std::string& text) {
    count();
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) refuse_entry(text);
    document_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  bool merge_part(std::string part) {
    count();
    if (parts_ == 2) refuse_entry(json::array());
    if (parts_++ == 0)
      document_.merges.emplace_back(std::move(part), std::string());
    else
      document_.merges.back().second = std::move(part);
    return true;
  }

  bool end_pair() {
    if (parts_ != 2) refuse_entry(json::array());
    parts_ = 0;
    where_ = Where::kMerges;
    return true;
  }

  [[noreturn]] void refuse_entry(const json& value) const {
    if (where_ == Where::kVocab)
      JsonNode(value, fmt::format("{}: model.vocab of \"{}\"", place_, shown(key_))).refuse(kIdRemedy);
    const std::size_t index = document_.merges.size() - (parts_ > 0 ? 1 : 0);
    const std::string place = fmt::format("{}: model.merges[{}]", place_, index);
    constexpr std::string_view kRemedy = R"("a b" or ["a", "b"] belongs there; copy the file again)";
    if (where_ == Where::kPair) fail(ErrorKind::kInput, "{} is a list of other than two strings: {}", place, kRemedy);
    JsonNode(value, place).refuse(kRemedy);
  }

  const std::string& place_;
  TokenizerDocument document_;
  std::vector<json*> stack_;  ///< open objects and lists of the tree
  const json* model_ = nullptr;
  std::string key_;
  std::size_t values_ = 0;
  int parts_ = 0;  ///< strings seen of the open pair
  Where where_ = Where::kTree;
};

}  // namespace

TokenizerDocument parse_tokenizer_document(const std::string& text, const std::string& place) {
  // JSON has no NUL, but the parser takes one for the end of its input.
  if (const std::size_t nul = text.find('\0'); nul != std::string::npos)
    fail(ErrorKind::kInput, "{}: no valid JSON at byte {}: copy the file again", place, nul + 1);
  DocumentBuilder builder(place);
  json::sax_parse(text, &builder);
  return builder.take();
}

}  // namespace purekv
