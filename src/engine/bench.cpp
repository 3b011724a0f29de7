#include "purekv/bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "base/fail.h"
#include "cache/kv_cache.h"
#include "device/memory.h"
#include "engine/bench_ceiling.h"
#include "engine/state.h"
#include "kernels/attention.h"
#include "model/decoder.h"
#include "model/vision_tower.h"
#include "model/weights.h"
#include "select/selector.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

struct Shaped {
  FrameTable table;
  ModelConfig config;
};

/// A cell count as the most square grid whose sides multiply to it.
std::pair<std::int32_t, std::int32_t> near_square(std::int64_t cells) {
  auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(cells)));
  while (cells % side != 0) --side;
  return {static_cast<std::int32_t>(side), static_cast<std::int32_t>(cells / side)};
}

FrameTable make_table(const BenchRequest& r) {
  if (r.frames == 0) return make_frame_table(static_cast<std::int32_t>(r.tokens), {});
  const auto [h, w] = near_square(r.tokens_per_frame);
  std::vector<FrameSpan> frames;
  for (std::int64_t f = 0; f < r.frames; ++f)
    frames.push_back({static_cast<std::int32_t>(r.prefix + f * r.tokens_per_frame), 0, static_cast<std::int32_t>(f), h, w});
  return make_frame_table(static_cast<std::int32_t>(r.prefix + r.frames * r.tokens_per_frame + r.question), frames);
}

ModelConfig make_config(const BenchRequest& r) {
  ModelConfig config;
  const BenchShape& s = r.shape;
  config.text.hidden = s.hidden;
  config.text.layers = s.layers;
  config.text.ffn = s.ffn;
  config.text.vocab = s.vocab;
  config.text.heads = {s.heads, s.kv_heads, s.head_dim};
  config.text.tied = true;
  const std::int64_t half = s.head_dim / 2;
  config.text.mrope_section = {half / 4, (half - half / 4) / 2, half - half / 4 - (half - half / 4) / 2};
  config.vision.out_hidden = s.hidden;
  if (r.kind == BenchKind::kVision && s.name == "custom") {
    config.vision.depth = s.layers;
    config.vision.hidden = s.hidden;
    config.vision.heads = s.heads;
    config.vision.ffn = s.ffn;
    config.vision.full_layers = {s.layers - 1};
  }
  return config;
}

std::int64_t layer_weights(const TextConfig& text) {
  const std::int64_t q = text.hidden * text.heads.heads * text.heads.head_dim;
  const std::int64_t kv = text.hidden * text.heads.kv_heads * text.heads.head_dim;
  return 2 * q + 2 * kv + 3 * text.hidden * text.ffn;
}

std::int64_t block_weights(const VisionConfig& v) { return 4 * v.hidden * v.hidden + 3 * v.hidden * v.ffn; }

void fill_random(const MatrixView& m, std::uint32_t seed) {
  std::uint32_t state = seed * 2654435761U + 1U;
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) {
      state = state * 1664525U + 1013904223U;
      const float value = static_cast<float>(state >> 8U) * 0x1p-24F * 3.4F - 1.7F;
      if (m.dtype == DType::kF32)
        m.row<float>(r)[c] = value;
      else
        m.row<BFloat16>(r)[c] = to_bf16(value);
    }
}

/// What a run is: work to repeat, and what it counts as.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void run() = 0;
  double flops = 0, bytes = 0;
  bool bound_by_bytes = false;
  KvReport kv;
};

class AttentionSubject : public Subject {
 public:
  AttentionSubject(const Context& context, const BenchRequest& r, const FrameTable& table)
      : context_(context),
        shape_{r.shape.heads, r.shape.kv_heads, r.shape.head_dim},
        plan_(make_plan(table, {.pattern = r.ask.attention.pattern,
                                .local_window = r.ask.attention.local_window,
                                .atrous_rate = r.ask.attention.atrous_rate})),
        scratch_(context, shape_, table.rows, nullptr),
        q_(context, DType::kF32, table.rows, shape_.heads * shape_.head_dim),
        out_(context, DType::kF32, table.rows, shape_.heads * shape_.head_dim) {
    const std::int64_t kv_rows = table.rows * shape_.kv_heads;
    fill_random(q_.view(), 1);
    fill_random({scratch_.keys(), context.compute, kv_rows, shape_.head_dim, shape_.head_dim}, 2);
    fill_random({scratch_.values(), context.compute, kv_rows, shape_.head_dim, shape_.head_dim}, 3);
    flops = 4.0 * static_cast<double>(plan_.pairs * shape_.heads * shape_.head_dim);
    bytes = static_cast<double>(2 * q_.view().rows * q_.view().cols * 4 +
                                2 * kv_rows * shape_.head_dim * static_cast<std::int64_t>(size_of(context.compute)));
  }
  void run() override {
    attention(context_, {.shape = shape_,
                         .scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim)),
                         .q = q_.view(),
                         .cached = {},
                         .fresh = scratch_.view(),
                         .plan = &plan_,
                         .out = out_.view()});
  }

 private:
  Context context_;
  HeadShape shape_;
  AttentionPlan plan_;
  LayerScratch scratch_;
  Matrix q_, out_;
};

class VisionSubject : public Subject {
 public:
  VisionSubject(const Context& context, const BenchRequest& r, const ModelConfig& config, DType weights)
      : config_(config.vision),
        model_(random_model(config, weights, false, true)),
        tower_(context, config_, model_.vision),
        frames_(std::max<std::int64_t>(1, r.frames)) {
    const std::int64_t cells = r.tokens_per_frame > 0 ? r.tokens_per_frame : r.tokens;
    const auto [h, w] = near_square(cells);
    grid_h_ = h * config_.merge;
    grid_w_ = w * config_.merge;
    const std::int64_t patches = grid_h_ * grid_w_;
    patches_ = Matrix(context, DType::kF32, patches, config_.patch_values());
    out_ = Matrix(context, DType::kF32, cells, config_.out_hidden);
    fill_random(patches_.view(), 4);
    const auto order = make_window_order(config_, grid_h_, grid_w_);
    double pairs = 0;
    for (std::size_t i = 1; i < order.starts.size(); ++i)
      pairs += std::pow(static_cast<double>(order.starts[i] - order.starts[i - 1]), 2);
    const auto full = static_cast<double>(config_.full_layers.size());
    const double all_pairs = pairs * (static_cast<double>(config_.depth) - full) +
                             full * static_cast<double>(patches) * static_cast<double>(patches);
    const std::int64_t wide = config_.merge * config_.merge * config_.hidden;
    const std::int64_t per_patch = config_.patch_values() * config_.hidden + config_.depth * block_weights(config_);
    flops = static_cast<double>(frames_) *
            (2.0 * static_cast<double>(patches * per_patch + cells * wide * (wide + config_.out_hidden)) +
             4.0 * all_pairs * static_cast<double>(config_.hidden));
    bytes = static_cast<double>(frames_ * model_.bytes);
  }
  void run() override {
    for (std::int64_t f = 0; f < frames_; ++f) tower_.encode(grid_h_, grid_w_, patches_.view(), out_.view());
  }

 private:
  VisionConfig config_;
  RandomModel model_;
  VisionTower tower_;
  std::int64_t frames_, grid_h_ = 0, grid_w_ = 0;
  Matrix patches_, out_;
};

/// What prefill and decode share: a random language model over a table of rows.
class LanguageSubject : public Subject {
 public:
  LanguageSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : request_(r),
        config_(shaped.config.text),
        table_(shaped.table),
        model_(random_model(shaped.config, weights, true, false)),
        decoder_(context, config_, model_.language),
        logits_(context, DType::kF32, 1, config_.vocab) {
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
  RandomModel model_;
  Decoder decoder_;
  Matrix logits_;
};

class PrefillSubject : public LanguageSubject {
 public:
  PrefillSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : LanguageSubject(context, r, shaped, weights), context_(context) {
    Positions positions;
    for (std::int32_t i = 0; i < table_.rows; ++i)
      for (auto& axis : positions.axis) axis.push_back(i);
    rope_ = make_rope_table(config_, positions);
    sparse_from_ = r.ask.attention.sparse_from.value_or(
        r.ask.preset == "purekv-paper"
            ? std::max(static_cast<std::int64_t>(std::nearbyint(0.71 * static_cast<double>(config_.layers))),
                       std::min(r.ask.compression.clie_layer, config_.layers) + 1)
            : 0);
    dense_ = make_plan(table_, {});
    sparse_ = make_plan(table_, {.pattern = r.ask.attention.pattern,
                                 .local_window = r.ask.attention.local_window,
                                 .atrous_rate = r.ask.attention.atrous_rate});
    const auto low = static_cast<double>(std::min(sparse_from_, config_.layers));
    const double pairs = low * static_cast<double>(dense_.pairs) +
                         (static_cast<double>(config_.layers) - low) * static_cast<double>(sparse_.pairs);
    flops = static_cast<double>(r.batch) *
            (2.0 * static_cast<double>(config_.layers * layer_weights(config_)) * table_.rows +
             4.0 * pairs * static_cast<double>(config_.heads.heads * config_.heads.head_dim) +
             2.0 * static_cast<double>(config_.vocab * config_.hidden));
    bytes = static_cast<double>(model_.bytes);
  }
  void run() override {
    for (std::int64_t b = 0; b < request_.batch; ++b) {
      KvCache cache(context_, config_.heads, config_.layers);
      Matrix hidden(context_, DType::kF32, table_.rows, config_.hidden);
      fill_random(hidden.view(), 5);
      Selector selector(context_, request_.ask.compression, table_);
      Prefill prefill(decoder_, cache,
                      {.hidden = hidden.view(),
                       .rope = &rope_,
                       .table = &table_,
                       .dense = &dense_,
                       .sparse = &sparse_,
                       .sparse_from = sparse_from_,
                       .chunk = request_.ask.prefill_chunk});
      const LayerHook hook = [&](const Observation& observation) -> std::optional<CompactionPlan> {
        auto keep = selector.select(observation);
        if (!keep) return std::nullopt;
        return CompactionPlan{std::move(*keep)};
      };
      while (!prefill.done()) prefill.step(hook, selector.needs_lse(prefill.layer(), config_.layers));
      prefill.last_logits(logits_.view());
      report(cache);
    }
  }

 private:
  Context context_;
  RopeTable rope_;
  AttentionPlan dense_, sparse_;
  std::int64_t sparse_from_;
};

class DecodeSubject : public LanguageSubject {
 public:
  DecodeSubject(const Context& context, const BenchRequest& r, const Shaped& shaped, DType weights)
      : LanguageSubject(context, r, shaped, weights) {
    const ResolvedBudget budget = resolve_budget(r.ask.compression, table_);
    const std::int64_t kept = budget.compress ? std::min<std::int64_t>(budget.rows, table_.rows) : table_.rows;
    for (std::int64_t b = 0; b < r.batch; ++b) {
      auto& cache = caches_.emplace_back(std::make_unique<KvCache>(context, config_.heads, config_.layers));
      for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        LayerScratch scratch(context, config_.heads, kept, cache->counter());
        const std::int64_t rows = kept * config_.heads.kv_heads;
        const std::int64_t dim = config_.heads.head_dim;
        fill_random({scratch.keys(), context.compute, rows, dim, dim}, static_cast<std::uint32_t>(layer));
        fill_random({scratch.values(), context.compute, rows, dim, dim}, static_cast<std::uint32_t>(layer) + 99);
        cache->apply(layer, std::move(scratch), nullptr);
      }
    }
    report(*caches_.front());
    const std::int64_t weights_read = config_.layers * layer_weights(config_) + config_.vocab * config_.hidden;
    flops = static_cast<double>(r.batch) *
            (2.0 * static_cast<double>(weights_read) +
             4.0 * static_cast<double>(config_.layers * config_.heads.heads * config_.heads.head_dim * kept));
    bytes = static_cast<double>(weights_read) * static_cast<double>(size_of(weights)) + static_cast<double>(kv.bytes_kept);
    bound_by_bytes = true;
  }
  void run() override {
    for (auto& cache : caches_) decoder_.decode_step(7, table_.rows + steps_, table_.rows + steps_, *cache, logits_.view());
    ++steps_;
  }

 private:
  std::vector<std::unique_ptr<KvCache>> caches_;
  std::int32_t steps_ = 0;
};

void check_request(const BenchRequest& r) {
  const BenchShape& s = r.shape;
  if (s.hidden < 1 || s.layers < 1 || s.heads < 1 || s.kv_heads < 1 || s.head_dim < 2 || s.ffn < 1)
    fail(ErrorKind::kUsage,
         "the shape has layers {}, hidden {}, heads {}, kv-heads {}, head-dim {}, ffn {}; name a --shape or give all six",
         s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn);
  if (s.heads % s.kv_heads != 0)
    fail(ErrorKind::kUsage, "{} heads do not divide by {} KV heads; give a multiple", s.heads, s.kv_heads);
  if (s.head_dim % 2 != 0) fail(ErrorKind::kUsage, "head-dim is {}; RoPE needs an even one", s.head_dim);
  if (r.tokens < 1 && (r.frames < 1 || r.tokens_per_frame < 1))
    fail(ErrorKind::kUsage, "give --tokens, or --frames and --tokens-per-frame");
  constexpr std::int64_t kMostRows = 1LL << 24U;
  const double rows = r.frames > 0 ? static_cast<double>(r.frames) * static_cast<double>(r.tokens_per_frame) +
                                         static_cast<double>(r.prefix + r.question)
                                   : static_cast<double>(r.tokens);
  if (rows > kMostRows) fail(ErrorKind::kUsage, "{} rows asked; at most {} are possible", rows, kMostRows);
  if (r.weights == WeightType::kFp8)
    fail(ErrorKind::kResource, "fp8 weights need the CUDA backend, which this build lacks; use --weights bf16 --device cpu");
}

void check_memory(const BenchRequest& r, const Context& context, const Shaped& shaped) {
  const TextConfig& text = shaped.config.text;
  const VisionConfig& vision = shaped.config.vision;
  const std::int64_t element = r.weights == WeightType::kF32 ? 4 : 2;
  double bytes = 0;
  if (r.kind == BenchKind::kPrefill || r.kind == BenchKind::kDecode) {
    bytes = static_cast<double>(element) * (static_cast<double>(text.layers) * static_cast<double>(layer_weights(text)) +
                                            static_cast<double>(text.vocab) * static_cast<double>(text.hidden)) +
            static_cast<double>(r.batch) *
                static_cast<double>(prefill_bytes(context, text, shaped.table.rows, shaped.table.rows, r.ask.prefill_chunk));
  } else if (r.kind == BenchKind::kVision) {
    bytes = static_cast<double>(element) * static_cast<double>(vision.depth) * static_cast<double>(block_weights(vision));
  } else {
    const auto width = static_cast<double>(2 * r.shape.heads + 2 * r.shape.kv_heads) * static_cast<double>(r.shape.head_dim);
    bytes = 4.0 * static_cast<double>(shaped.table.rows) * width;
  }
  constexpr double kMost = 9e18;
  require_bytes(context, static_cast<std::int64_t>(std::min(bytes, kMost)), "this benchmark",
                "choose a smaller --shape, --batch or --tokens");
}

std::unique_ptr<Subject> make_subject(const BenchRequest& r, const Context& context, const Shaped& shaped) {
  const DType weights = r.weights == WeightType::kF32 ? DType::kF32 : DType::kBF16;
  switch (r.kind) {
    case BenchKind::kAttention: return std::make_unique<AttentionSubject>(context, r, shaped.table);
    case BenchKind::kVision: return std::make_unique<VisionSubject>(context, r, shaped.config, weights);
    case BenchKind::kPrefill: return std::make_unique<PrefillSubject>(context, r, shaped, weights);
    case BenchKind::kDecode: return std::make_unique<DecodeSubject>(context, r, shaped, weights);
  }
  fail(ErrorKind::kInternal, "internal: unknown benchmark");
}

constexpr std::array<const char*, 4> kNames = {"attention", "vision", "prefill", "decode"};

}  // namespace

BenchShape named_shape(const std::string& name) {
  if (name == "qwen2.5-vl-7b") return {name, 28, 3584, 28, 4, 128, 18944, 152064};
  if (name == "qwen2.5-vl-3b") return {name, 36, 2048, 16, 2, 128, 11008, 151936};
  if (name == "qwen2.5-vl-72b") return {name, 80, 8192, 64, 8, 128, 29568, 152064};
  if (name == "qwen2.5-0.5b") return {name, 24, 896, 14, 2, 64, 4864, 151936};
  if (name == "videollama2.1-7b") return {name, 28, 3584, 28, 4, 128, 18944, 152064};
  fail(ErrorKind::kUsage,
       "--shape is {}; known are qwen2.5-vl-7b, qwen2.5-vl-3b, qwen2.5-vl-72b, qwen2.5-0.5b, videollama2.1-7b", name);
}

BenchResult run_bench(const BenchRequest& request, const Progress& progress) {
  check_request(request);
  const Context context = make_context(request.engine);
  Shaped shaped{make_table(request), make_config(request)};
  check_memory(request, context, shaped);
  const auto subject = make_subject(request, context, shaped);
  Ceiling ceiling(context, request.weights == WeightType::kF32 ? DType::kF32 : DType::kBF16);
  std::vector<double> times;
  // One warm-up, then ceiling and run in turns, so that a machine that slows down slows both.
  for (std::int64_t i = -1; i < request.repeat; ++i) {
    if (progress.stop != nullptr && progress.stop->load()) fail(ErrorKind::kInterrupted, "interrupted in run {}", i + 1);
    ceiling.measure();
    const auto begin = std::chrono::steady_clock::now();
    subject->run();
    if (i >= 0)
      times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    if (progress.step) progress.step("bench", i + 1, request.repeat);
  }
  BenchResult result;
  result.what = kNames[static_cast<std::size_t>(request.kind)];
  result.shape = request.shape.name;
  result.median_ms = median(times);
  result.min_ms = *std::min_element(times.begin(), times.end());
  result.max_ms = *std::max_element(times.begin(), times.end());
  result.flops_useful = subject->flops;
  result.bytes = subject->bytes;
  result.tflops = subject->flops / result.median_ms * 1e-9;
  result.ceiling_gemm_tflops = ceiling.gemm_tflops();
  result.ceiling_copy_gbps = ceiling.copy_gbps();
  result.percent_of_ceiling = subject->bound_by_bytes
                                  ? 100.0 * subject->bytes / result.median_ms * 1e-6 / result.ceiling_copy_gbps
                                  : 100.0 * result.tflops / result.ceiling_gemm_tflops;
  result.kv = subject->kv;
  return result;
}

}  // namespace purekv
