#include "purekv/engine.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/memory.h"
#include "engine/generation.h"
#include "engine/prompt.h"
#include "engine/state.h"

namespace purekv {

struct Engine::State {
  LoadedModel model;
};

Context make_context(const EngineOptions& options) {
  if (options.device == DeviceKind::kCuda)
    fail(ErrorKind::kResource, "this build has no CUDA backend; use --device cpu");
  constexpr int kMostThreads = 1024;
  if (options.threads < 0 || options.threads > kMostThreads)
    fail(ErrorKind::kUsage, "{} threads asked; give 1 to {}, or 0 for every core", options.threads, kMostThreads);
  Context context;
  context.threads = options.threads > 0 ? options.threads : usable_cores();
  context.compute = options.compute == ComputeType::kBf16 ? DType::kBF16 : DType::kF32;
  return context;
}

std::int64_t resolve_sparse_from(const AskOptions& options, std::int64_t layers) {
  if (options.attention.sparse_from) return *options.attention.sparse_from;
  if (options.preset != "purekv-paper") return 0;
  const auto share = static_cast<std::int64_t>(std::nearbyint(0.71 * static_cast<double>(layers)));
  return std::max(share, std::min(options.compression.clie_layer, layers) + 1);
}

std::int64_t kv_row_bytes(const Context& context, const TextConfig& config) {
  return 2 * config.layers * config.heads.kv_heads * config.heads.head_dim *
         static_cast<std::int64_t>(size_of(context.compute));
}

std::int64_t prefill_bytes(const Context& context, const TextConfig& config, std::int64_t rows, std::int64_t kept_rows,
                           std::int64_t chunk) {
  constexpr std::int64_t kFloat = sizeof(float);
  const std::int64_t width = config.heads.heads * config.heads.head_dim;
  const std::int64_t a_row = config.hidden + 2 * width + config.heads.head_dim + config.heads.heads;
  const std::int64_t row_wise = std::min(chunk, rows) * (2 * config.hidden + 2 * config.ffn);
  const std::int64_t kv_row = kv_row_bytes(context, config);
  return kFloat * (rows * a_row + row_wise + config.vocab) + kv_row / config.layers * rows + kv_row * kept_rows;
}

Engine::Engine(const EngineOptions& options, const Progress& progress) : state_(std::make_unique<State>()) {
  const auto begin = Clock::now();
  LoadedModel& s = state_->model;
  s.directory = options.model_dir;
  s.context = make_context(options);
  if (progress.step) progress.step("load", 0, 3);
  s.config = load_config(options.model_dir);
  s.checkpoint = Checkpoint::open(options.model_dir);
  if (progress.step) progress.step("load", 1, 3);
  s.language = bind_language(*s.checkpoint, s.config.text);
  if (s.config.has_vision) s.vision = bind_vision(*s.checkpoint, s.config.vision);
  if (progress.step) progress.step("load", 2, 3);
  const std::string tokenizer = options.model_dir + "/tokenizer.json";
  if (std::filesystem::exists(tokenizer)) s.tokenizer = Tokenizer::load(tokenizer);
  if (progress.step) progress.step("load", 3, 3);
  s.load_ms = ms_since(begin);
}

Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

const PreprocessConfig& Engine::preprocess() const { return state_->model.config.preprocess; }

DeviceKind Engine::device() const { return DeviceKind::kCpu; }

ModelSummary Engine::summary() const {
  const TextConfig& text = state_->model.config.text;
  ModelSummary summary;
  summary.layers = text.layers;
  summary.heads = text.heads.heads;
  summary.kv_heads = text.heads.kv_heads;
  summary.head_dim = text.heads.head_dim;
  summary.hidden = text.hidden;
  summary.context = text.context;
  summary.weight_bytes = state_->model.weight_bytes();
  summary.kv_bytes_per_row = kv_row_bytes(state_->model.context, text);
  return summary;
}

std::int64_t Engine::count_rows(const Question& question, const AskOptions& options) const {
  PromptParts parts;
  parts.media = media_of(question);
  parts.question = question.text;
  parts.system = options.system;
  parts.ids = question.ids;
  const LoadedModel& model = state_->model;
  return static_cast<std::int64_t>(make_prompt(model.config, model.tokenizer_or_null(), parts).ids.size());
}

std::shared_ptr<const EncodedMedia> Engine::encode(const std::vector<std::unique_ptr<ClipSource>>& media,
                                                   const Progress& progress) const {
  return encode_media(state_->model, media, progress);
}

Answer Engine::ask(Question question, const AskOptions& options, const Progress& progress) {
  return Generation(state_->model, std::move(question), options, progress).run();
}

}  // namespace purekv
