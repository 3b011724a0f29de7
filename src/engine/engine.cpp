#include "purekv/engine.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/memory.h"
#include "device/open_device.h"
#include "device/transfer.h"
#include "engine/generation.h"
#include "engine/prompt.h"
#include "engine/state.h"
#include "kernels/attention.h"
#include "kernels/mlp.h"
#include "kernels/rope_linear.h"
#include "model/vision_tower.h"
#include "select/budget.h"

namespace purekv {

struct Engine::State {
  LoadedModel model;
};

namespace {

/// Matrices in place on the CPU; on a GPU copied layer by layer, after which the files are let go.
void load_weights(LoadedModel& s, Checkpoint checkpoint, WeightType type, const Progress& progress) {
  const TextConfig& text = s.config.text;
  const std::int64_t vision_layers = s.config.has_vision ? s.config.vision.depth : 0;
  const std::int64_t total = text.layers + vision_layers;
  const bool is_cuda = s.context.backend == Backend::kCuda;
  if (is_cuda)
    require_bytes(s.context, device_weight_bytes(s.config, type), "the model's weights",
                  "use --weights fp8, a smaller model, or --device cpu");
  WeightOptions options{.dtype = type == WeightType::kFp8 ? DType::kFp8 : DType::kBF16, .step = {}};
  std::int64_t done_before = 0;
  options.step = [&](std::int64_t done, std::int64_t) {
    if (progress.step) progress.step("load", done_before + done, total);
    if (progress.stop != nullptr && progress.stop->load(std::memory_order_relaxed))
      fail(ErrorKind::kInterrupted, "interrupted while loading");
  };
  s.language = bind_language(s.context, checkpoint, text, options);
  done_before = text.layers;
  if (s.config.has_vision) s.vision = bind_vision(s.context, checkpoint, s.config.vision, options);
  if (is_cuda)
    synchronize(s.context);  // then the files may go
  else
    s.checkpoint = std::move(checkpoint);
}

}  // namespace

Context make_context(const EngineOptions& options) {
  constexpr int kMostThreads = 1024;
  if (options.threads < 0 || options.threads > kMostThreads)
    fail(ErrorKind::kUsage, "{} threads asked; give 1 to {}, or 0 for every core", options.threads, kMostThreads);
  Context context;
  context.threads = options.threads > 0 ? options.threads : usable_cores();
  const bool wants_f32 = options.compute == ComputeType::kF32 || options.weights == WeightType::kF32;
  // Only the CPU computes in float32, so `auto` with it means the CPU.
  const bool is_cuda = options.device == DeviceKind::kCuda ||
                       (options.device == DeviceKind::kAuto && !wants_f32 && !why_no_cuda().has_value());
  if (!is_cuda) {
    context.compute = options.compute == ComputeType::kBf16 ? DType::kBF16 : DType::kF32;
    if (options.weights == WeightType::kFp8)
      fail(ErrorKind::kResource, "fp8 weights need a GPU; use --weights bf16 with --device cpu");
    return context;
  }
  if (wants_f32)
    fail(ErrorKind::kUsage,
         "a GPU computes in bf16, f32 was asked; use --dtype bf16 (and --weights bf16), or --device cpu");
  context.backend = Backend::kCuda;
  context.compute = DType::kBF16;
  context.cuda = open_cuda_device();
  if (options.weights == WeightType::kFp8 && !has_fp8(context))
    fail(ErrorKind::kResource, "{} has no fp8 arithmetic (compute capability 8.9 is needed); use --weights bf16",
         describe_device(context));
  return context;
}

std::optional<Tokenizer> load_tokenizer(const std::string& model_dir) {
  const std::string path = model_dir + "/tokenizer.json";
  if (!Tokenizer::built_in() || !std::filesystem::exists(path)) return std::nullopt;
  return Tokenizer::load(path);
}

std::int64_t resolve_chunk(const Context& context, const AskOptions& options) {
  constexpr std::int64_t kCpuRows = 512;
  constexpr std::int64_t kGpuRows = 33792;  // 32k tokens of video and their text in one piece
  constexpr std::int64_t kWide = 16;        // any width that rows of every type allow
  if (options.prefill_chunk > 0) return options.prefill_chunk;
  if (context.backend == Backend::kCpu) return kCpuRows;
  // Where both products of an MLP are stored, half the rows take as much memory.
  return mlp_stores_up(context, kGpuRows, kWide, kWide) ? kGpuRows / 2 : kGpuRows;
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
                           std::int64_t chunk, DType weights) {
  constexpr std::int64_t kFloat = sizeof(float);
  const auto between = static_cast<std::int64_t>(size_of(context.activation()));
  const std::int64_t width = config.heads.heads * config.heads.head_dim;
  // cos and sin, log-sum-exp in float32; hidden rows, queries and attended rows as between two operations.
  const std::int64_t a_row =
      kFloat * (config.heads.head_dim + config.heads.heads) + between * (config.hidden + 2 * width);
  const std::int64_t at_once = std::min(chunk, rows);
  const bool stores_qkv = rope_linear_stores(context, config.heads, at_once, config.hidden);
  const std::int64_t qkv = stores_qkv ? config.heads.qkv_cols() : 0;
  const bool stores_up = mlp_stores_up(context, at_once, config.hidden, config.ffn);
  // fp8 weights read rows in a byte each, one copy at a time; beside it scales and an exponent for 32 inner values.
  const std::int64_t copied = std::max({config.hidden, width, config.ffn}) + config.ffn / 32 + 5 * kFloat;
  const std::int64_t scaled = weights == DType::kFp8 ? copied : 0;
  const std::int64_t inner = config.ffn * (stores_up ? 2 : 1) * between + scaled;
  const std::int64_t row_wise = at_once * (between * (config.hidden + qkv) + inner);
  const std::int64_t kv_row = kv_row_bytes(context, config);
  return rows * a_row + row_wise + kFloat * config.vocab + kv_row / config.layers * rows + kv_row * kept_rows;
}

std::int64_t prompt_bytes(const Context& context, const ModelConfig& config, const std::vector<ClipInfo>& media,
                          const FrameTable& table, const AskOptions& options, DType weights) {
  const TextConfig& text = config.text;
  const ResolvedBudget budget = resolve_budget(options.compression, table);
  // With the base on the video, text stays beside the budget.
  const bool video = options.compression.budget_base == BudgetBase::kVideo;
  const std::int64_t text_rows = video ? table.rows - table.visual_rows() : 0;
  const std::int64_t kept = budget.compress ? std::min<std::int64_t>(table.rows, budget.rows + text_rows) : table.rows;
  std::int64_t bytes = prefill_bytes(context, text, table.rows, kept, resolve_chunk(context, options), weights);
  // The tower is done before the prefill begins; the hidden rows are there in both.
  const std::int64_t hidden = table.rows * text.hidden * static_cast<std::int64_t>(size_of(context.activation()));
  for (const ClipInfo& clip : media)
    bytes = std::max(bytes, hidden + tower_bytes(context, config.vision,
                                                 static_cast<std::int64_t>(clip.grid_h) * clip.grid_w, clip.grid_t));
  return bytes;
}

std::int64_t device_weight_bytes(const ModelConfig& config, WeightType type) {
  constexpr std::int64_t kNarrow = 2;
  const TextConfig& text = config.text;
  const std::int64_t tables = text.vocab * text.hidden * (text.tied ? 1 : 2);
  const std::int64_t layers = text.layers * layer_weights(text);
  const VisionConfig& v = config.vision;
  const std::int64_t wide = v.merge * v.merge * v.hidden;
  const std::int64_t vision =
      config.has_vision ? v.depth * block_weights(v) + wide * (wide + v.out_hidden) + v.hidden * v.patch_values() : 0;
  const bool is_fp8 = type == WeightType::kFp8;
  return kNarrow * (tables + vision) + (is_fp8 ? layers + kNarrow * text.hidden * text.ffn : kNarrow * layers);
}

Engine::Engine(const EngineOptions& options, const Progress& progress) : state_(std::make_unique<State>()) {
  const auto begin = Clock::now();
  LoadedModel& s = state_->model;
  s.directory = options.model_dir;
  s.context = make_context(options);
  s.config = load_config(options.model_dir);
  check_attention_shape(s.context, s.config.text.heads);
  load_weights(s, Checkpoint::open(options.model_dir), options.weights, progress);
  s.tokenizer = load_tokenizer(options.model_dir);
  s.load_ms = ms_since(begin);
}

Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

const PreprocessConfig& Engine::preprocess() const { return state_->model.config.preprocess; }

std::int64_t Engine::vocab() const { return state_->model.config.text.vocab; }

DeviceKind Engine::device() const {
  return state_->model.context.backend == Backend::kCuda ? DeviceKind::kCuda : DeviceKind::kCpu;
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
