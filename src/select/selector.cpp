#include "select/selector.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "device/transfer.h"
#include "kernels/join_scores.h"
#include "kernels/top_rows.h"
#include "select/layer_scores.h"

namespace purekv {
namespace {

/// Uniform in [0, 1): one hash of (seed, layer, head, row), so that chunks and threads cannot change it.
float noise(std::uint64_t seed, std::int64_t layer, std::int64_t head, std::int64_t row) {
  std::uint64_t x = seed;
  for (const std::int64_t part : {layer, head, row}) {
    x += static_cast<std::uint64_t>(part) + 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
    x ^= x >> 31U;
  }
  constexpr unsigned kFloatBits = 24;
  return static_cast<float>(x >> (64U - kFloatBits)) / static_cast<float>(1U << kFloatBits);
}

/// [l - w] JoinScoresParams::kind.
std::vector<std::uint8_t> row_kinds(const Quota& quota, const FrameTable& table) {
  std::vector<std::uint8_t> kinds;
  kinds.reserve(quota.forced.size());
  for (std::size_t row = 0; row < quota.forced.size(); ++row) {
    const bool visual = !table.is_text(static_cast<std::int32_t>(row));
    kinds.push_back(static_cast<std::uint8_t>((visual ? kVisualRow : 0) | (quota.forced[row] ? kForcedRow : 0)));
  }
  return kinds;
}

}  // namespace

struct Selector::State {
  Context context;
  CompressionOptions options;
  ResolvedBudget budget;
  Quota quota;
  ScoreSink sink;
  Buffer kinds;     ///< row_kinds
  Buffer slots;     ///< [kv_heads, ranked rows that stay, then the window's]
  ScoreArray lent;  ///< C of layer c, for the layers above it
  LayerScores scores;

  [[nodiscard]] bool lends() const { return options.score == Score::kClie || options.score == Score::kClieFrame; }
  [[nodiscard]] std::int64_t columns(const Observation& seen) const { return seen.table->rows - budget.window; }
  [[nodiscard]] std::int64_t ranked(const Observation& seen) const {
    return std::min(columns(seen), quota.forced_count + quota.ranked);
  }

  void show(std::string_view name, const Observation& seen, const ScoreArray& array) const {
    if (!sink || array.empty()) return;
    const std::int64_t kv_heads = seen.shape.kv_heads;
    const std::int64_t count = columns(seen);
    std::vector<float> data = to_host<float>(context, array.data(), kv_heads * array.stride);
    for (std::int64_t h = 1; h < kv_heads; ++h)
      std::copy_n(data.begin() + h * array.stride, count, data.begin() + h * count);
    sink(name, seen.layer, data.data(), kv_heads, count);
  }

  void rank_by_noise(const Observation& seen) {
    std::vector<float> score;
    score.reserve(static_cast<std::size_t>(seen.shape.kv_heads * columns(seen)));
    for (std::int64_t h = 0; h < seen.shape.kv_heads; ++h)
      for (std::int64_t j = 0; j < columns(seen); ++j)
        score.push_back(quota.forced[static_cast<std::size_t>(j)] ? std::numeric_limits<float>::infinity()
                                                                  : noise(options.seed, seen.layer, h, j));
    upload(context, scores.score.take(context, seen.shape.kv_heads, columns(seen)), score.data(),
           static_cast<std::int64_t>(score.size() * sizeof(float)));
  }

  void rank_by_score(const Observation& seen) {
    const bool borrows = lends() && seen.layer > options.clie_layer && !lent.empty();
    score_layer(context, seen,
                {.options = options,
                 .window = budget.window,
                 .kind = kinds.as<std::uint8_t>(),
                 .borrowed = borrows ? &lent : nullptr},
                scores);
    show("window", seen, scores.window);
    show("vnorm", seen, scores.vnorm);
    show("local", seen, scores.local);
    show("self", seen, scores.self);
    show("nov", seen, scores.nov);
    if (lends() && seen.layer == options.clie_layer) lent = std::exchange(scores.window, {});
  }

  /// The window's rows end every list in every layer.
  void take_slots(const Observation& seen) {
    const std::int64_t best = ranked(seen);
    std::vector<std::int32_t> lists;
    for (std::int64_t h = 0; h < seen.shape.kv_heads; ++h) {
      lists.resize(lists.size() + static_cast<std::size_t>(best), 0);
      for (std::int64_t row = columns(seen); row < seen.table->rows; ++row)
        lists.push_back(static_cast<std::int32_t>(row));
    }
    slots = to_device(context, lists);
  }
};

Selector::Selector(const Context& context, const CompressionOptions& options, const FrameTable& table, ScoreSink sink)
    : state_(std::make_unique<State>()) {
  state_->context = context;
  state_->options = effective_options(options, table);
  state_->budget = resolve_budget(options, table);
  state_->sink = std::move(sink);
  if (!state_->budget.compress) return;
  state_->quota = make_quota(state_->options, state_->budget, table);
  state_->kinds = to_device(context, row_kinds(state_->quota, table));
}

Selector::~Selector() = default;

const ResolvedBudget& Selector::budget() const { return state_->budget; }

bool Selector::needs_lse() const {
  return state_->budget.compress && state_->options.method == Method::kPureKv && is_frame_score(state_->options.score);
}

std::optional<KeepList> Selector::select(const Observation& seen) {
  State& s = *state_;
  if (!s.budget.compress) return std::nullopt;
  const std::int64_t kv_heads = seen.shape.kv_heads;
  if (s.slots.data() == nullptr) s.take_slots(seen);
  if (s.options.method == Method::kRandom)
    s.rank_by_noise(seen);
  else
    s.rank_by_score(seen);
  s.show("score", seen, s.scores.score);
  const std::int64_t kept = s.ranked(seen) + s.budget.window;
  top_rows(s.context, {.score = s.scores.score.data(),
                       .heads = kv_heads,
                       .rows = s.columns(seen),
                       .stride = s.columns(seen),
                       .count = s.ranked(seen),
                       .slots = s.slots.as<std::int32_t>(),
                       .slot_stride = kept});
  return KeepList{.slots = s.slots.as<std::int32_t>(),
                  .slot_stride = kept,
                  .counts = std::vector<std::int64_t>(static_cast<std::size_t>(kv_heads), kept)};
}

}  // namespace purekv
