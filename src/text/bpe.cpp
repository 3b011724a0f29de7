#include "text/bpe.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::int32_t kNone = -1;

/// A part of the word, linked to its neighbours; `id` is kNone once it is part of the one to its left.
struct Symbol {
  std::int32_t id = kNone, left = kNone, right = kNone;
};

/// A merge that was possible when it was queued.
struct Candidate {
  Merge merge;
  std::int32_t at = 0;  ///< the left symbol

  /// std heaps keep the largest on top: larger is merged earlier.
  bool operator<(const Candidate& other) const {
    return std::pair(merge.rank, at) > std::pair(other.merge.rank, other.at);
  }
};

class WordMerger {
 public:
  explicit WordMerger(const BpeTables& tables) : tables_(tables) {}

  void run(std::string_view word) {
    fill(word);
    for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols_.size()); ++i)
      if (const Merge* merge = merge_at(i)) queue_.push_back({*merge, i});
    std::make_heap(queue_.begin(), queue_.end());
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      const Candidate top = queue_.back();
      queue_.pop_back();
      const Merge* const merge = merge_at(top.at);
      if (merge != nullptr && merge->id == top.merge.id) apply(top);
    }
  }

  void append_to(std::vector<std::int32_t>& ids) const {
    for (std::int32_t i = 0; i != kNone; i = symbol(i).right) ids.push_back(symbol(i).id);
  }

 private:
  [[nodiscard]] const Symbol& symbol(std::int32_t i) const { return symbols_[static_cast<std::size_t>(i)]; }
  Symbol& symbol(std::int32_t i) { return symbols_[static_cast<std::size_t>(i)]; }

  void fill(std::string_view word) {
    symbols_.resize(word.size());
    const auto count = static_cast<std::int32_t>(word.size());
    for (std::int32_t i = 0; i < count; ++i) {
      const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
      const std::int32_t id = tables_.byte_ids[byte];
      if (id == kNone)
        fail(ErrorKind::kInput,
             "the tokenizer's vocabulary has no token for the byte 0x{:02X} of the text; leave the character out or "
             "use the model's own tokenizer.json",
             byte);
      symbol(i) = {id, i - 1, i + 1 < count ? i + 1 : kNone};
    }
  }

  /// The merge of symbol `i` with its right neighbour, null where there is none.
  [[nodiscard]] const Merge* merge_at(std::int32_t i) const {
    const Symbol& left = symbol(i);
    if (left.id == kNone || left.right == kNone) return nullptr;
    const auto it = tables_.merges.find(pair_key(left.id, symbol(left.right).id));
    return it == tables_.merges.end() ? nullptr : &it->second;
  }

  void apply(const Candidate& candidate) {
    Symbol& left = symbol(candidate.at);
    Symbol& right = symbol(left.right);
    left.id = candidate.merge.id;
    left.right = right.right;
    right.id = kNone;
    if (left.right != kNone) symbol(left.right).left = candidate.at;
    push(left.left);
    push(candidate.at);
  }

  void push(std::int32_t at) {
    if (at == kNone) return;
    const Merge* const merge = merge_at(at);
    if (merge == nullptr) return;
    queue_.push_back({*merge, at});
    std::push_heap(queue_.begin(), queue_.end());
  }

  const BpeTables& tables_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> queue_;
};

}  // namespace

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (word.empty()) return;
  if (const auto whole = tables_.whole.find(std::string(word)); whole != tables_.whole.end()) {
    ids.push_back(whole->second);
    return;
  }
  WordMerger merger(tables_);
  merger.run(word);
  merger.append_to(ids);
}

}  // namespace purekv
