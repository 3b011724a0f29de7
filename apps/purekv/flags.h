#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "purekv/engine.h"
#include "purekv/media.h"
#include "purekv/options.h"

namespace purekv::app {

/// What the command line said. Unset means "not given": a flag that was given wins over a preset.
struct EngineFlags {
  std::optional<std::string> model;
  DeviceKind device = DeviceKind::kAuto;
  ComputeType compute = ComputeType::kDefault;
  WeightType weights = WeightType::kBf16;
  std::optional<std::int64_t> threads;
};

struct CompressionFlags {
  std::optional<std::string> preset;
  std::optional<Method> method;
  std::optional<Budget> budget;
  std::optional<BudgetBase> budget_base;
  std::optional<std::int64_t> window, sinks, clie_layer;
  std::optional<Score> score;
  std::optional<RowReduce> row_reduce;
  std::optional<GqaReduce> gqa_reduce;
  std::optional<ValueNorm> vnorm;
};

struct AttentionFlags {
  std::optional<Pattern> pattern;
  std::optional<std::int64_t> sparse_from, local_window, atrous_rate;
};

struct PromptFlags {
  std::optional<std::string> system;
  GenerationOptions generation;
};

/// The flags that decide an answer, shared by ask and eval.
struct AskFlags {
  EngineFlags engine;
  MediaOptions media;
  PromptFlags prompt;
  CompressionFlags compression;
  AttentionFlags attention;
  std::optional<std::int64_t> prefill_chunk;
};

/// Each adds one group of flags to `app`; the structure must outlive the parse.
void add_engine_flags(CLI::App& app, EngineFlags& flags);
void add_run_flags(CLI::App& app, std::optional<std::int64_t>& prefill_chunk);
void add_media_flags(CLI::App& app, MediaOptions& media);
void add_prompt_flags(CLI::App& app, PromptFlags& flags);
void add_compression_flags(CLI::App& app, CompressionFlags& flags);
void add_attention_flags(CLI::App& app, AttentionFlags& flags);
/// All of the above.
void add_ask_flags(CLI::App& app, AskFlags& flags);

/// Combinations that cannot be; throw Error(kUsage).
void check_media(const MediaOptions& media);
void check_attention(const AskOptions& options);

/// Preset, then flags. Throws Error(kUsage) for a contradiction, Error(kInput) for a bad system text.
AskOptions resolve(const AskFlags& flags);
/// Engine options with the model folder found (model_path.h).
EngineOptions engine_options(const EngineFlags& flags, const std::string& model_dir);

/// Throws Error(kInput) where `text` is over 1 MiB or not well-formed UTF-8.
void check_text(std::string_view what, std::string_view text);

}  // namespace purekv::app
