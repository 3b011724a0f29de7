#include "text/bpe.h"

#include <algorithm>
#include <functional>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::int32_t kNone = -1;

/// A part of the word, linked to its neighbours; `id` is kNone once it is part of the one to its left.
struct Symbol {
  std::int32_t id = kNone, left = kNone, right = kNone;
};

/// A merge that was possible when it was queued, as rank << 32 | left symbol: the smallest goes first. Ranks tell
/// pairs apart, so an entry is out of date where its symbol's merge has another rank.
using Candidate = std::uint64_t;

Candidate candidate(const Merge& merge, std::int32_t at) {
  return static_cast<std::uint64_t>(merge.rank) << 32 | static_cast<std::uint32_t>(at);
}

/// One word on its way: a linked list of symbols and a heap of merges. Entries of the heap go out of date when a
/// neighbour merges first; they are passed over when they come up, which is cheaper than finding and removing them.
class WordMerger {
 public:
  explicit WordMerger(const BpeTables& tables) : tables_(tables) {}

  void run(std::string_view word) {
    fill(word);
    for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols_.size()); ++i)
      if (const Merge* merge = merge_at(i)) queue_.push_back(candidate(*merge, i));
    std::make_heap(queue_.begin(), queue_.end(), std::greater<>());
    while (!queue_.empty()) {
      const Candidate top = queue_.front();
      std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
      queue_.pop_back();
      const auto at = static_cast<std::int32_t>(top & 0xFFFFFFFFU);
      const Merge* const merge = merge_at(at);
      if (merge != nullptr && candidate(*merge, at) == top) apply(at, merge->id);
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
    return tables_.merges.find(pair_key(left.id, symbol(left.right).id));
  }

  void apply(std::int32_t at, std::int32_t id) {
    Symbol& left = symbol(at);
    Symbol& right = symbol(left.right);
    left.id = id;
    left.right = right.right;
    right.id = kNone;
    if (left.right != kNone) symbol(left.right).left = at;
    // Only the two pairs that the new symbol is part of are new.
    push(left.left);
    push(at);
  }

  void push(std::int32_t at) {
    if (at == kNone) return;
    const Merge* const merge = merge_at(at);
    if (merge == nullptr) return;
    queue_.push_back(candidate(*merge, at));
    std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
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
