#include <optional>

#include "engine/prompt.h"
#include "engine/state.h"
#include "kernels/attention.h"
#include "purekv/engine.h"

namespace purekv {

struct Inspection::State {
  Context context;
  ModelConfig config;
  DType weights = DType::kBF16;  ///< of linear layers, as far as memory depends on it
  std::optional<Tokenizer> tokenizer;
  ModelSummary summary;
};

Inspection::Inspection(const EngineOptions& options) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.context = make_context(options);
  s.config = load_config(options.model_dir);
  if (options.weights == WeightType::kFp8) s.weights = DType::kFp8;
  const TextConfig& text = s.config.text;
  check_attention_shape(s.context, text.heads);
  const Checkpoint checkpoint = Checkpoint::open(options.model_dir);
  // On the CPU binding checks every shape and reads nothing.
  static_cast<void>(bind_language({}, checkpoint, text));
  if (s.config.has_vision) static_cast<void>(bind_vision({}, checkpoint, s.config.vision));
  s.tokenizer = load_tokenizer(options.model_dir);
  const bool is_cuda = s.context.backend == Backend::kCuda;
  s.summary = {.device = is_cuda ? DeviceKind::kCuda : DeviceKind::kCpu,
               .layers = text.layers,
               .heads = text.heads.heads,
               .kv_heads = text.heads.kv_heads,
               .head_dim = text.heads.head_dim,
               .hidden = text.hidden,
               .context = text.context,
               .weight_bytes = is_cuda ? device_weight_bytes(s.config, options.weights) : checkpoint.bytes(),
               .kv_bytes_per_row = kv_row_bytes(s.context, text),
               .has_tokenizer = s.tokenizer.has_value(),
               .preprocess = s.config.preprocess};
}

Inspection::Inspection(Inspection&&) noexcept = default;
Inspection& Inspection::operator=(Inspection&&) noexcept = default;
Inspection::~Inspection() = default;

const ModelSummary& Inspection::model() const { return state_->summary; }

PromptCost Inspection::cost(const std::vector<ClipInfo>& media, const AskOptions& options) const {
  const State& s = *state_;
  PromptParts parts;
  parts.media = media;
  parts.system = options.system;
  // Without a tokenizer nothing is known of the text: a pad a medium.
  if (!s.tokenizer)
    for (const ClipInfo& clip : media)
      parts.ids.push_back(clip.kind == MediaKind::kImage ? s.config.ids.image_pad : s.config.ids.video_pad);
  const FrameTable table = outline_prompt(s.config, s.tokenizer ? &*s.tokenizer : nullptr, parts);
  return {.tokens = table.rows,
          .memory_bytes = s.summary.weight_bytes + prompt_bytes(s.context, s.config, media, table, options, s.weights)};
}

}  // namespace purekv
