#include "purekv/bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "base/fail.h"
#include "device/memory.h"
#include "device/timer.h"
#include "engine/bench_ceiling.h"
#include "engine/bench_subjects.h"
#include "engine/state.h"
#include "kernels/attention.h"
#include "model/vision_tower.h"
#include "model/weights.h"
#include "select/budget.h"

namespace purekv {
namespace {

FrameTable make_table(const BenchRequest& r) {
  if (r.frames == 0) return make_frame_table(static_cast<std::int32_t>(r.tokens), {});
  const auto [h, w] = near_square(r.tokens_per_frame);
  std::vector<FrameSpan> frames;
  for (std::int64_t f = 0; f < r.frames; ++f)
    frames.push_back(
        {static_cast<std::int32_t>(r.prefix + f * r.tokens_per_frame), 0, static_cast<std::int32_t>(f), h, w});
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

void check_request(const BenchRequest& r) {
  const BenchShape& s = r.shape;
  if (s.hidden < 1 || s.layers < 1 || s.heads < 1 || s.kv_heads < 1 || s.head_dim < 2 || s.ffn < 1)
    fail(ErrorKind::kUsage,
         "the shape has layers {}, hidden {}, heads {}, kv-heads {}, head-dim {}, ffn {}; name a --shape or give all "
         "six",
         s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn);
  if (s.heads % s.kv_heads != 0)
    fail(ErrorKind::kUsage, "{} heads do not divide by {} KV heads; give a multiple", s.heads, s.kv_heads);
  if (s.head_dim % 2 != 0) fail(ErrorKind::kUsage, "head-dim is {}; RoPE needs an even one", s.head_dim);
  if (r.tokens < 1 && (r.frames < 1 || r.tokens_per_frame < 1))
    fail(ErrorKind::kUsage, "give --tokens, or --frames and --tokens-per-frame");
  constexpr std::int64_t kMostRows = std::numeric_limits<std::int32_t>::max();
  const double rows = r.frames > 0 ? static_cast<double>(r.frames) * static_cast<double>(r.tokens_per_frame) +
                                         static_cast<double>(r.prefix + r.question)
                                   : static_cast<double>(r.tokens);
  if (rows > kMostRows) fail(ErrorKind::kUsage, "{} rows asked; at most {} are possible", rows, kMostRows);
  const std::int64_t tower_dim = s.hidden / s.heads;
  if (r.kind == BenchKind::kVision && s.name == "custom" && (s.hidden % s.heads != 0 || tower_dim % 4 != 0))
    fail(ErrorKind::kUsage, "a tower of hidden {} and {} heads: hidden / heads must be whole and a multiple of 4",
         s.hidden, s.heads);
}

std::int64_t rows_of(const BenchRequest& r) {
  return r.frames > 0 ? r.prefix + r.frames * r.tokens_per_frame + r.question : r.tokens;
}

void check_memory(const BenchRequest& r, const Context& context, const ModelConfig& config) {
  const TextConfig& text = config.text;
  const VisionConfig& vision = config.vision;
  const std::int64_t rows = rows_of(r);
  const auto element = static_cast<double>(size_of(weight_type(r)));
  double bytes = 0;
  if (r.kind == BenchKind::kPrefill || r.kind == BenchKind::kDecode) {
    const bool decodes = r.kind == BenchKind::kDecode;
    const std::int64_t kept = kept_rows(r, make_table(r));
    const auto kv = static_cast<double>(kv_row_bytes(context, text));
    bytes = element * static_cast<double>(text.layers) * static_cast<double>(layer_weights(text)) +
            std::max(2.0, element) * static_cast<double>(text.vocab) * static_cast<double>(text.hidden);
    if (decodes)  // every sequence's rows, a little room to grow and logits
      bytes +=
          static_cast<double>(r.batch) * (kv * static_cast<double>(kept + 32) + 4.0 * static_cast<double>(text.vocab));
    else
      bytes +=
          static_cast<double>(prefill_bytes(context, text, rows, kept, resolve_chunk(context, r.ask), weight_type(r)));
  } else if (r.kind == BenchKind::kVision) {
    const std::int64_t cells = r.tokens_per_frame > 0 ? r.tokens_per_frame : r.tokens;
    bytes = element * static_cast<double>(vision.depth) * static_cast<double>(block_weights(vision)) +
            static_cast<double>(tower_bytes(context, vision, cells * vision.merge * vision.merge,
                                            std::max<std::int64_t>(1, r.frames) * r.batch));
  } else {
    const auto width =
        static_cast<double>(2 * r.shape.heads + 2 * r.shape.kv_heads) * static_cast<double>(r.shape.head_dim);
    bytes = static_cast<double>(size_of(context.activation())) * static_cast<double>(rows) * width;
  }
  constexpr double kMost = 9e18;
  bytes += static_cast<double>(Ceiling::bytes(context));
  require_bytes(context, static_cast<std::int64_t>(std::min(bytes, kMost)), "this benchmark",
                "choose a smaller --shape, --batch or --tokens, or a lower --budget");
}

std::unique_ptr<Subject> make_subject(const BenchRequest& r, const Context& context, const Shaped& shaped) {
  switch (r.kind) {
    case BenchKind::kAttention:
      return make_attention_subject(context, r, shaped);
    case BenchKind::kVision:
      return make_vision_subject(context, r, shaped);
    case BenchKind::kPrefill:
      return make_prefill_subject(context, r, shaped);
    case BenchKind::kDecode:
      return make_decode_subject(context, r, shaped);
  }
  fail(ErrorKind::kInternal, "internal: unknown benchmark");
}

/// Runs between two reads of a GPU's clock: the host's launch latency, some microseconds, must not count as work of a
/// kernel that takes a few hundred.
std::int64_t runs_at_once(const Context& context, double ms) {
  constexpr double kLeastMs = 4;
  constexpr double kMost = 50;
  if (context.backend == Backend::kCpu || ms <= 0) return 1;
  return static_cast<std::int64_t>(std::clamp(std::ceil(kLeastMs / ms), 1.0, kMost));
}

/// Whether a GPU's runs follow one another, with the ceilings before and behind them: a large product right before a
/// run of a few milliseconds leaves the card at its power limit, where no peer of a race has to begin (dense attention
/// of 16k rows on an H200: 2.82 ms at best, 3.18 in turns with products).
bool runs_in_one_stretch(const Context& context, double ms) {
  constexpr double kShortMs = 50;
  return context.backend == Backend::kCuda && ms < kShortMs;
}

/// Before such a stretch the card rests from the products of the ceiling, which no peer has right before its turn.
constexpr std::chrono::milliseconds kRest{300};

/// Groups of runs in a stretch: `repeat` runs in all, as a peer's turn has, but no median of fewer than five: how long
/// a card computes in one go decides how near to its power limit it comes.
std::int64_t groups_of(std::int64_t repeat, std::int64_t at_once) {
  constexpr std::int64_t kFewest = 5;
  return std::max((repeat + at_once - 1) / at_once, std::min(repeat, kFewest));
}

constexpr std::array<const char*, 4> kNames = {"attention", "vision", "prefill", "decode"};

}  // namespace

std::int64_t kept_rows(const BenchRequest& r, const FrameTable& table) {
  const ResolvedBudget budget = resolve_budget(r.ask.compression, table);
  const bool video = r.ask.compression.budget_base == BudgetBase::kVideo;
  const std::int64_t text = video ? table.rows - table.visual_rows() : 0;  // stays beside the budget
  return budget.compress ? std::min<std::int64_t>(budget.rows + text, table.rows) : table.rows;
}

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
  EngineOptions engine = request.engine;
  engine.weights = request.weights;
  const Context context = make_context(engine);
  const ModelConfig config = make_config(request);
  if (request.kind != BenchKind::kVision) check_attention_shape(context, config.text.heads);
  check_memory(request, context, config);
  const Shaped shaped{make_table(request), config};
  const auto subject = make_subject(request, context, shaped);
  Ceiling ceiling(context, weight_type(request));
  std::vector<double> times;
  Timer timer(context);
  std::int64_t at_once = 1;
  bool in_one_stretch = false;
  std::int64_t groups = request.repeat;
  // A GPU's first run makes plans, loads kernels and captures; its second says how many fit between two clock reads.
  const std::int64_t warm_ups = context.backend == Backend::kCuda ? 2 : 1;
  // Warm-up, then ceiling and run in turns, so that a machine that slows down slows both; short runs on a GPU apart.
  for (std::int64_t i = -warm_ups; i < groups; ++i) {
    if (progress.stop != nullptr && progress.stop->load())
      fail(ErrorKind::kInterrupted, "interrupted in run {}", i + warm_ups);
    if (!in_one_stretch || i < 0) ceiling.measure();
    timer.start();
    for (std::int64_t n = 0; n < at_once; ++n) subject->run();
    const double ms = timer.stop_ms() / static_cast<double>(at_once);
    if (i >= 0) times.push_back(ms);
    if (i < 0) {
      at_once = runs_at_once(context, ms);
      in_one_stretch = runs_in_one_stretch(context, ms);
    }
    if (i == -1 && in_one_stretch) {
      groups = groups_of(request.repeat, at_once);
      std::this_thread::sleep_for(kRest);
    }
    if (progress.step) progress.step("bench", std::max<std::int64_t>(0, i + 1), groups);
  }
  if (in_one_stretch) ceiling.measure();
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
