#pragma once

#include <optional>
#include <string>
#include <vector>

#include "device/context.h"
#include "flow/frame_table.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/weights.h"
#include "purekv/engine.h"
#include "purekv/tokenizer.h"

namespace purekv {

/// A loaded model: everything that outlives a question.
struct LoadedModel {
  std::string directory;
  Context context;
  ModelConfig config;
  std::optional<Checkpoint> checkpoint;  ///< gone once a GPU holds the weights
  LanguageWeights language;
  VisionWeights vision;
  std::optional<Tokenizer> tokenizer;
  double load_ms = 0;

  /// Null where the directory has none.
  [[nodiscard]] const Tokenizer* tokenizer_or_null() const { return tokenizer ? &*tokenizer : nullptr; }
};

/// Device, threads and compute type of a set of options; `auto` is the GPU where one can be used. Throws
/// Error(kResource) for a device that is not there, Error(kUsage) for a type that it lacks.
Context make_context(const EngineOptions& options);

/// The model's tokenizer.json; none where it is missing or the build reads none: prompts of token ids still work.
std::optional<Tokenizer> load_tokenizer(const std::string& model_dir);

/// Rows a chunk of the row-wise work: as asked, or what fills the device.
std::int64_t resolve_chunk(const Context& context, const AskOptions& options);

/// First sparse layer: the flag; else the rule of `purekv-paper`, max(round(0.71 L), clie_layer + 1)
/// (docs/method.md); else every layer.
std::int64_t resolve_sparse_from(const AskOptions& options, std::int64_t layers);

/// Bytes of one prompt row's keys and values in all layers.
std::int64_t kv_row_bytes(const Context& context, const TextConfig& config);

/// Bytes of the weights on a GPU: bf16, or fp8 for the language model's linear layers beside one of them in bf16.
std::int64_t device_weight_bytes(const ModelConfig& config, WeightType type);

/// Bytes that a prefill of `rows` takes beside the weights: activations, one layer's KV scratch and
/// the rows kept of every layer. `weights`: type of the language model's linear layers on the device.
std::int64_t prefill_bytes(const Context& context, const TextConfig& config, std::int64_t rows, std::int64_t kept_rows,
                           std::int64_t chunk, DType weights);

/// Bytes that a prompt takes at its most beside the weights, media included: what is checked before work starts. Of
/// `table`, places are not read; `weights` as above.
std::int64_t prompt_bytes(const Context& context, const ModelConfig& config, const std::vector<ClipInfo>& media,
                          const FrameTable& table, const AskOptions& options, DType weights);

}  // namespace purekv
