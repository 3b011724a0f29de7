#include "purekv/bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <memory>
#include <utility>

#include "base/fail.h"
#include "device/memory.h"
#include "engine/bench_ceiling.h"
#include "engine/bench_subjects.h"
#include "engine/state.h"

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
  if (r.weights == WeightType::kFp8)
    fail(ErrorKind::kResource,
         "fp8 weights need the CUDA backend, which this build lacks; use --weights bf16 --device cpu");
}

std::int64_t rows_of(const BenchRequest& r) {
  return r.frames > 0 ? r.prefix + r.frames * r.tokens_per_frame + r.question : r.tokens;
}

/// The tower's rows of one frame, and the chunk of them that is between two operations.
double vision_row_bytes(const BenchRequest& r, const VisionConfig& vision) {
  constexpr std::int64_t kChunk = 1024;
  const std::int64_t patches = r.tokens_per_frame * vision.merge * vision.merge;
  const auto chunk = static_cast<double>(std::min(kChunk, patches));
  return 4.0 * (static_cast<double>(patches) * static_cast<double>(vision.patch_values() + 5 * vision.hidden) +
                chunk * static_cast<double>(4 * vision.hidden + 2 * vision.ffn) +
                static_cast<double>(r.tokens_per_frame * vision.out_hidden));
}

void check_memory(const BenchRequest& r, const Context& context, const ModelConfig& config) {
  const TextConfig& text = config.text;
  const VisionConfig& vision = config.vision;
  const std::int64_t rows = rows_of(r);
  const std::int64_t element = r.weights == WeightType::kF32 ? 4 : 2;
  double bytes = 0;
  if (r.kind == BenchKind::kPrefill || r.kind == BenchKind::kDecode) {
    bytes =
        static_cast<double>(element) * (static_cast<double>(text.layers) * static_cast<double>(layer_weights(text)) +
                                        static_cast<double>(text.vocab) * static_cast<double>(text.hidden)) +
        static_cast<double>(r.batch) *
            static_cast<double>(prefill_bytes(context, text, rows, rows, r.ask.prefill_chunk));
  } else if (r.kind == BenchKind::kVision) {
    bytes =
        static_cast<double>(element) * static_cast<double>(vision.depth) * static_cast<double>(block_weights(vision)) +
        vision_row_bytes(r, vision);
  } else {
    const auto width =
        static_cast<double>(2 * r.shape.heads + 2 * r.shape.kv_heads) * static_cast<double>(r.shape.head_dim);
    bytes = 4.0 * static_cast<double>(rows) * width;
  }
  constexpr double kMost = 9e18;
  require_bytes(context, static_cast<std::int64_t>(std::min(bytes, kMost)), "this benchmark",
                "choose a smaller --shape, --batch or --tokens");
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
  const ModelConfig config = make_config(request);
  check_memory(request, context, config);
  const Shaped shaped{make_table(request), config};
  const auto subject = make_subject(request, context, shaped);
  Ceiling ceiling(context, weight_type(request));
  std::vector<double> times;
  // One warm-up, then ceiling and run in turns, so that a machine that slows down slows both.
  for (std::int64_t i = -1; i < request.repeat; ++i) {
    if (progress.stop != nullptr && progress.stop->load())
      fail(ErrorKind::kInterrupted, "interrupted in run {}", i + 1);
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
