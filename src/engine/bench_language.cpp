#include <algorithm>
#include <cmath>
#include <vector>

#include "cache/kv_cache.h"
#include "engine/bench_subjects.h"
#include "engine/state.h"
#include "kernels/random_bits.h"
#include "model/decode_session.h"
#include "model/decoder.h"
#include "model/weights.h"
#include "select/selector.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

/// What prefill and decode share: a random language model over a table of rows.
class LanguageSubject : public Subject {
 public:
  LanguageSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : request_(r),
        config_(shaped.config.text),
        table_(shaped.table),
        weights_(random_language(context, config_, weights)),
        decoder_(context, config_, weights_) {
    kv.rows = table_.rows;
    kv.bytes_full = kv_row_bytes(context, config_) * table_.rows * r.batch;
  }

 protected:
  void report(KvCache& cache) {
    kv.rows_kept.clear();
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      auto& kept = kv.rows_kept.emplace_back();
      for (std::int64_t head = 0; head < config_.heads.kv_heads; ++head) kept.push_back(cache.rows(layer, head));
    }
    kv.bytes_kept = cache.bytes_used() * request_.batch;
    kv.bytes_peak = std::max(kv.bytes_peak, cache.counter()->peak() * request_.batch);
  }

  const BenchRequest& request_;
  TextConfig config_;
  FrameTable table_;
  LanguageWeights weights_;
  Decoder decoder_;
};

class PrefillSubject : public LanguageSubject {
 public:
  PrefillSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : LanguageSubject(context, r, shaped, weights),
        context_(context),
        hidden_(context, context.activation(), table_.rows, config_.hidden),
        logits_(context, DType::kF32, 1, config_.vocab) {
    Positions positions;
    for (std::int32_t i = 0; i < table_.rows; ++i)
      for (auto& axis : positions.axis) axis.push_back(i);
    rope_ = make_rope_table(context, config_, positions);
    const std::int32_t block_rows = plan_block_rows(context);
    sparse_from_ = resolve_sparse_from(r.ask, config_.layers);
    dense_ = make_plan(table_, {.block_rows = block_rows});
    sparse_ = make_plan(table_, {.pattern = r.ask.attention.pattern,
                                 .local_window = r.ask.attention.local_window,
                                 .atrous_rate = r.ask.attention.atrous_rate,
                                 .block_rows = block_rows});
    const auto low = static_cast<double>(std::min(sparse_from_, config_.layers));
    const double pairs = low * static_cast<double>(dense_.pairs) +
                         (static_cast<double>(config_.layers) - low) * static_cast<double>(sparse_.pairs);
    flops = static_cast<double>(r.batch) *
            (2.0 * static_cast<double>(config_.layers * layer_weights(config_)) * table_.rows +
             4.0 * pairs * static_cast<double>(config_.heads.heads * config_.heads.head_dim) +
             2.0 * static_cast<double>(config_.vocab * config_.hidden));
    bytes = static_cast<double>(weights_.bytes);
  }
  void run() override {
    for (std::int64_t b = 0; b < request_.batch; ++b) {
      KvCache cache(context_, config_.heads, config_.layers);
      random_normal(context_, hidden_.view(), 5);
      Selector selector(context_, request_.ask.compression, table_);
      Prefill prefill(decoder_, cache,
                      {.hidden = hidden_.view(),
                       .rope = &rope_,
                       .table = &table_,
                       .dense = &dense_,
                       .sparse = &sparse_,
                       .sparse_from = sparse_from_,
                       .chunk = resolve_chunk(context_, request_.ask)});
      const LayerHook hook = [&](const Observation& observation) -> std::optional<CompactionPlan> {
        auto keep = selector.select(observation);
        if (!keep) return std::nullopt;
        return CompactionPlan{std::move(*keep)};
      };
      while (!prefill.done()) prefill.step(hook, selector.needs_lse());
      prefill.last_logits(logits_.view());
      report(cache);
    }
  }

 private:
  Context context_;
  Matrix hidden_, logits_;
  RopeTable rope_;
  AttentionPlan dense_, sparse_;
  std::int64_t sparse_from_;
};

class DecodeSubject : public LanguageSubject {
 public:
  DecodeSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : LanguageSubject(context, r, shaped, weights) {
    const std::int64_t kept = kept_rows(r, table_);
    for (std::int64_t b = 0; b < r.batch; ++b) {
      auto& cache = caches_.emplace_back(std::make_unique<KvCache>(context, config_.heads, config_.layers));
      for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        LayerScratch scratch(context, config_.heads, kept, cache->counter());
        const std::int64_t rows = kept * config_.heads.kv_heads;
        const std::int64_t dim = config_.heads.head_dim;
        const auto seed = static_cast<std::uint64_t>(2 * (b * config_.layers + layer));
        random_normal(context, {scratch.keys(), context.compute, rows, dim, dim}, seed);
        random_normal(context, {scratch.values(), context.compute, rows, dim, dim}, seed + 1);
        cache->apply(layer, std::move(scratch), nullptr);
      }
    }
    report(*caches_.front());
    std::vector<KvCache*> all;
    all.reserve(caches_.size());
    for (const auto& cache : caches_) all.push_back(cache.get());
    const std::vector<std::int32_t> positions(caches_.size(), table_.rows);
    session_ = std::make_unique<DecodeSession>(decoder_, std::move(all), positions);
    const std::int64_t weights_read = config_.layers * layer_weights(config_) + config_.vocab * config_.hidden;
    flops = static_cast<double>(r.batch) *
            (2.0 * static_cast<double>(weights_read) +
             4.0 * static_cast<double>(config_.layers * config_.heads.heads * config_.heads.head_dim * kept));
    const std::int64_t head = config_.vocab * config_.hidden;  // bf16 beside fp8 layers
    bytes = static_cast<double>(weights_read - head) * static_cast<double>(size_of(weights)) +
            static_cast<double>(head) * static_cast<double>(size_of(decoder_.weights().head.dtype)) +
            static_cast<double>(kv.bytes_kept);
    bound_by_bytes = true;
  }
  void run() override {
    session_->step(std::vector<std::int32_t>(caches_.size(), table_.rows + steps_));
    ++steps_;
  }

 private:
  std::vector<std::unique_ptr<KvCache>> caches_;
  std::unique_ptr<DecodeSession> session_;
  std::int32_t steps_ = 0;
};

}  // namespace

std::unique_ptr<Subject> make_prefill_subject(const Context& context, const BenchRequest& request,
                                              const Shaped& shaped) {
  return std::make_unique<PrefillSubject>(context, request, shaped, weight_type(request));
}

std::unique_ptr<Subject> make_decode_subject(const Context& context, const BenchRequest& request,
                                             const Shaped& shaped) {
  return std::make_unique<DecodeSubject>(context, request, shaped, weight_type(request));
}

}  // namespace purekv
