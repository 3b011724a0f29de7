#include "flags.h"

#include "errors.h"
#include "flag_binding.h"
#include "utf8.h"

namespace purekv::app {
namespace {

/// Frames a second. The bounds keep temporal positions (a few a second) far inside 32 bits.
constexpr RealRange kRate{.low = 0.001, .high = 1000};
constexpr RealRange kSeconds{.low = 0, .high = 1e7};
constexpr std::int64_t kMostPixels = 1LL << 40U;

}  // namespace

void add_engine_flags(CLI::App& app, EngineFlags& flags) {
  const FlagGroup group{app, "Model and machine"};
  bind_path(group, {"--model", "DIR", "folder of a Qwen2.5-VL checkpoint (default: the demo model)"}, flags.model);
  bind_choice(group, "--device", "where to compute (default auto: a GPU where one can be used, else the CPU)",
              flags.device, kDevices);
  bind_choice(group, "--dtype", "type of activations and cache (default f32 on the CPU, bf16 on CUDA)", flags.compute,
              kComputeTypes);
  bind_choice(group, "--weights", "type of the language model's linear layers on a GPU (default bf16)", flags.weights,
              kAskWeightTypes);
  constexpr std::int64_t kMostThreads = 1024;
  bind_integer(group, {"--threads", "N", "CPU threads (default: every core)"}, flags.threads, 1, kMostThreads);
}

void add_run_flags(CLI::App& app, std::optional<std::int64_t>& prefill_chunk) {
  const FlagGroup group{app, "Work"};
  bind_integer(
      group,
      {"--prefill-chunk", "N",
       "tokens a chunk of the row-wise work (default 512; on a Hopper GPU 33792, on others half); results stay "
       "the same"},
      prefill_chunk, 1);
}

void add_media_flags(CLI::App& app, MediaOptions& media) {
  const FlagGroup group{app, "Media"};
  bind_real(group, {"--fps", "X", "frames to take from each second of a video (default 2)"}, media.fps, kRate);
  bind_integer(group, {"--frames", "N", "frames to take from the whole video, rounded to even; instead of --fps"},
               media.frames, 2);
  bind_real(group, {"--frame-rate", "X", "frames a second that a folder or .npy file holds (default 2.0)"},
            media.frame_rate, kRate);
  bind_integer(group, {"--min-pixels", "N", "least pixels of a frame after resizing (default: the model's)"},
               media.min_pixels, 1, kMostPixels);
  bind_integer(group, {"--max-pixels", "N", "most pixels of a frame after resizing (default: the model's)"},
               media.max_pixels, 1, kMostPixels);
  bind_integer(group, {"--total-pixels", "N", "most pixels of all frames together (default 90316800)"},
               media.total_pixels, 1, kMostPixels);
  bind_real(group, {"--start", "S", "second of the video to begin at (default 0)"}, media.start, kSeconds);
  bind_real(group, {"--end", "S", "second of the video to stop at (default: its end)"}, media.end, kSeconds);
}

void add_prompt_flags(CLI::App& app, PromptFlags& flags) {
  const FlagGroup prompt{app, "Prompt"};
  bind(prompt, {"--system", "TEXT", "system message (default \"You are a helpful assistant.\")"}, flags.system,
       [](const std::string&, const std::string& value) { return value; });
  const FlagGroup group{app, "Generation"};
  GenerationOptions& generation = flags.generation;
  bind_integer(group, {"--max-tokens", "N", "longest answer (default 128)"}, generation.max_tokens, 1);
  bind_real(group, {"--temp", "X", "temperature; 0 is greedy (default: generation_config.json, else greedy)"},
            generation.temperature, {.low = 0, .high = 1000});
  bind_real(group, {"--top-p", "X", "sample from the likeliest tokens of this sum (default: generation_config.json)"},
            generation.top_p, {.low = 0, .high = 1, .above = true});
  bind_integer(group,
               {"--top-k", "N", "sample from the N likeliest tokens, 0 for all (default: generation_config.json)"},
               generation.top_k, 0);
  bind(group, {"--seed", "N", "seed of sampling and of --method random (default 0)"}, generation.seed, parse_seed);
  bind_real(group,
            {"--repetition-penalty", "X", "above 1 disfavours tokens seen before (default: generation_config.json)"},
            generation.repetition_penalty, {.low = 0, .high = 1000, .above = true});
  bind_switch(group, "--ignore-eos", "go on until --max-tokens", generation.ignore_eos);
}

void add_compression_flags(CLI::App& app, CompressionFlags& flags) {
  const FlagGroup group{app, "Compression of the KV cache"};
  bind_choice(group, "--preset", "defaults of the flags below and of --attention (default purekv)", flags.preset,
              kPresets);
  bind_choice(group, "--method", "which rows are kept: all, by score, or at random (default purekv)", flags.method,
              kMethods);
  bind(group, {"--budget", "20%|N", "rows a layer and KV head may keep: a share or a count (default 20%)"},
       flags.budget, parse_budget);
  bind_choice(group, "--budget-base", "what the share is of; video keeps all text besides (default prompt)",
              flags.budget_base, kBudgetBases);
  bind_integer(group, {"--window", "N", "last rows that score and stay (default: the question, at most 64; paper 32)"},
               flags.window, 1);
  bind_integer(group, {"--sinks", "N", "first rows that always stay (default 0)"}, flags.sinks, 0);
  bind_choice(group, "--score", "what rows are ranked by (default own+frame; paper clie)", flags.score, kScores);
  bind_integer(group, {"--clie-layer", "N", "layer whose scores the later ones share, from 0 (default 2)"},
               flags.clie_layer, 0);
  bind_choice(group, "--row-reduce", "over the window's rows (default max; paper sum)", flags.row_reduce, kRowReduces);
  bind_choice(group, "--gqa-reduce", "over the query heads of a KV head (default max; paper mean)", flags.gqa_reduce,
              kGqaReduces);
  bind_choice(group, "--vnorm", "how values weigh a score (default out; paper l2)", flags.vnorm, kValueNorms);
}

void add_attention_flags(CLI::App& app, AttentionFlags& flags) {
  const FlagGroup group{app, "Attention"};
  bind_choice(group, "--attention", "what prefill rows see\n(default dense; paper spatial-temporal)", flags.pattern,
              kPatterns);
  bind_integer(group,
               {"--sparse-from", "LAYER",
                "first layer with the pattern, from 0\n(default 0; paper max(round(0.71 L), clie-layer + 1))"},
               flags.sparse_from, 0);
  bind_integer(group, {"--local-window", "N", "rows a row looks back; --attention local needs it"}, flags.local_window,
               1);
  bind_integer(group, {"--atrous-rate", "N", "distance between seen rows; --attention atrous needs it"},
               flags.atrous_rate, 1);
}

void add_ask_flags(CLI::App& app, AskFlags& flags) {
  add_engine_flags(app, flags.engine);
  add_media_flags(app, flags.media);
  add_prompt_flags(app, flags.prompt);
  add_compression_flags(app, flags.compression);
  add_attention_flags(app, flags.attention);
  add_run_flags(app, flags.prefill_chunk);
}

void check_media(const MediaOptions& media) {
  if (media.fps && media.frames) fail(ErrorKind::kUsage, "--fps and --frames contradict each other; give one of them");
  if (media.min_pixels && media.max_pixels && *media.min_pixels > *media.max_pixels)
    fail(ErrorKind::kUsage, "--min-pixels {} is above --max-pixels {}; raise one or lower the other", *media.min_pixels,
         *media.max_pixels);
  if (media.end && *media.end <= media.start.value_or(0))
    fail(ErrorKind::kUsage, "--end {} is not after --start {}; give a later second", *media.end,
         media.start.value_or(0));
}

void check_attention(const AskOptions& options) {
  const AttentionOptions& attention = options.attention;
  if (attention.pattern == Pattern::kLocal && attention.local_window == 0)
    fail(ErrorKind::kUsage, "--attention local needs --local-window N");
  if (attention.pattern == Pattern::kAtrous && attention.atrous_rate == 0)
    fail(ErrorKind::kUsage, "--attention atrous needs --atrous-rate N");
}

AskOptions resolve(const AskFlags& flags) {
  check_media(flags.media);
  AskOptions options = preset_options(flags.compression.preset.value_or("purekv"));
  const CompressionFlags& given = flags.compression;
  CompressionOptions& compression = options.compression;
  compression.method = given.method.value_or(compression.method);
  compression.budget = given.budget.value_or(compression.budget);
  compression.budget_base = given.budget_base.value_or(compression.budget_base);
  compression.window = given.window.value_or(compression.window);
  compression.window_is_question = compression.window_is_question && !given.window;
  compression.sinks = given.sinks.value_or(compression.sinks);
  compression.clie_layer = given.clie_layer.value_or(compression.clie_layer);
  compression.score = given.score.value_or(compression.score);
  compression.row_reduce = given.row_reduce.value_or(compression.row_reduce);
  compression.gqa_reduce = given.gqa_reduce.value_or(compression.gqa_reduce);
  compression.vnorm = given.vnorm.value_or(compression.vnorm);
  compression.seed = flags.prompt.generation.seed;
  const AttentionFlags& attention = flags.attention;
  options.attention.pattern = attention.pattern.value_or(options.attention.pattern);
  if (attention.sparse_from) options.attention.sparse_from = attention.sparse_from;
  options.attention.local_window = attention.local_window.value_or(0);
  options.attention.atrous_rate = attention.atrous_rate.value_or(0);
  check_attention(options);
  options.generation = flags.prompt.generation;
  options.system = flags.prompt.system;
  if (options.system) check_text("--system", *options.system);
  options.prefill_chunk = flags.prefill_chunk.value_or(options.prefill_chunk);
  return options;
}

EngineOptions engine_options(const EngineFlags& flags, const std::string& model_dir) {
  return {model_dir, flags.device, flags.compute, static_cast<int>(flags.threads.value_or(0)), flags.weights};
}

void check_text(std::string_view what, std::string_view text) {
  constexpr std::size_t kMost = 1U << 20U;
  if (text.size() > kMost)
    fail(ErrorKind::kInput, "{} is {} bytes long; at most {} (1 MiB) are possible", what, text.size(), kMost);
  if (const std::size_t at = find_ill_formed(text); at != std::string_view::npos)
    fail(ErrorKind::kInput, "{} is not UTF-8 at byte {}; convert it", what, at);
}

}  // namespace purekv::app
