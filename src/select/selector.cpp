#include "select/selector.h"

#include <limits>
#include <numeric>
#include <utility>

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

}  // namespace

struct Selector::State {
  Context context;
  CompressionOptions options;
  ResolvedBudget budget;
  Quota quota;
  ScoreSink sink;
  std::vector<float> lent;  ///< C of layer c, for the layers above it

  [[nodiscard]] bool lends() const { return options.score == Score::kClie || options.score == Score::kClieFrame; }

  void show(std::string_view name, const Observation& seen, const std::vector<float>& data) const {
    if (!sink || data.empty()) return;
    sink(name, seen.layer, data.data(), seen.shape.kv_heads,
         static_cast<std::int64_t>(data.size()) / seen.shape.kv_heads);
  }

  std::vector<float> rank_by_noise(const Observation& seen) const {
    const std::int64_t columns = seen.table->rows - budget.window;
    std::vector<float> score;
    score.reserve(static_cast<std::size_t>(seen.shape.kv_heads * columns));
    for (std::int64_t h = 0; h < seen.shape.kv_heads; ++h)
      for (std::int64_t j = 0; j < columns; ++j) score.push_back(noise(options.seed, seen.layer, h, j));
    return score;
  }

  std::vector<float> rank_by_score(const Observation& seen) {
    const bool borrows = lends() && seen.layer > options.clie_layer && !lent.empty();
    LayerScores scores = score_layer(
        context, seen, {.options = options, .window = budget.window, .borrowed = borrows ? lent.data() : nullptr});
    show("window", seen, scores.window);
    show("vnorm", seen, scores.vnorm);
    show("local", seen, scores.local);
    show("self", seen, scores.self);
    show("nov", seen, scores.nov);
    if (lends() && seen.layer == options.clie_layer) lent = std::move(scores.window);
    return std::move(scores.score);
  }
};

Selector::Selector(const Context& context, const CompressionOptions& options, const FrameTable& table, ScoreSink sink)
    : state_(std::make_unique<State>()) {
  state_->context = context;
  state_->options = effective_options(options, table);
  state_->budget = resolve_budget(options, table);
  if (state_->budget.compress) state_->quota = make_quota(state_->options, state_->budget, table);
  state_->sink = std::move(sink);
}

Selector::~Selector() = default;

const ResolvedBudget& Selector::budget() const { return state_->budget; }

bool Selector::needs_lse(std::int64_t /*layer*/, std::int64_t /*layers*/) const {
  return state_->budget.compress && state_->options.method == Method::kPureKv && is_frame_score(state_->options.score);
}

std::optional<KeepList> Selector::select(const Observation& seen) {
  State& s = *state_;
  if (!s.budget.compress) return std::nullopt;
  const std::int64_t columns = seen.table->rows - s.budget.window;
  std::vector<float> score = s.options.method == Method::kRandom ? s.rank_by_noise(seen) : s.rank_by_score(seen);
  KeepList keep;
  for (std::int64_t h = 0; h < seen.shape.kv_heads; ++h) {
    float* row = score.data() + h * columns;
    for (std::int64_t j = 0; j < columns; ++j)
      if (s.quota.forced[static_cast<std::size_t>(j)]) row[j] = std::numeric_limits<float>::infinity();
    std::vector<std::int32_t> slots = top_rows(s.context, row, columns, s.quota.forced_count + s.quota.ranked);
    const auto ranked = static_cast<std::ptrdiff_t>(slots.size());
    slots.resize(slots.size() + static_cast<std::size_t>(s.budget.window));
    std::iota(slots.begin() + ranked, slots.end(), static_cast<std::int32_t>(columns));
    keep.slots.push_back(std::move(slots));
  }
  s.show("score", seen, score);
  return keep;
}

}  // namespace purekv
