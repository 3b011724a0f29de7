#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/options.h"

namespace purekv {

struct EngineOptions {
  std::string model_dir;
  DeviceKind device = DeviceKind::kAuto;
  ComputeType compute = ComputeType::kDefault;  ///< f32 on the CPU
  int threads = 0;                              ///< 0: every core this process may use
  /// The CPU reads weights as the file holds them; a GPU holds bf16, or fp8 (e4m3 with a scale an output channel) for
  /// the language model's linear layers.
  WeightType weights = WeightType::kBf16;
};

/// Bytes of keys and values: the prompt's rows before and after compression, and the most alive
/// at once, counted where memory is taken.
struct KvReport {
  std::int64_t bytes_full = 0, bytes_kept = 0, bytes_peak = 0;
  std::int64_t rows = 0;                             ///< prompt rows
  std::vector<std::vector<std::int64_t>> rows_kept;  ///< [layer][KV head]
};

/// `media` is what the host takes to decode and resize frames, `vision` the tower's time on its
/// device: on a GPU they may overlap, and their sum be more than passed. `first_token` is the wall's clock.
struct Timing {
  double load = 0, media = 0, vision = 0, prefill = 0, first_token = 0, per_token = 0;  ///< ms
};

struct Answer {
  std::string text;                      ///< special tokens left out
  std::vector<std::int32_t> output_ids;  ///< final eos included
  bool stopped = false;                  ///< true: eos; false: length
  std::int64_t prompt_tokens = 0, video_tokens = 0;
  std::vector<ClipInfo> media;
  std::int64_t budget_rows = 0;    ///< B
  std::int64_t window = 0;         ///< effective w
  std::int64_t sparse_from = 0;    ///< effective first sparse layer
  std::int64_t prefill_chunk = 0;  ///< effective rows a chunk
  GenerationOptions generation;    ///< defaults filled in; temperature 0 is greedy
  int threads = 0;
  KvReport kv;
  Timing time_ms;
};

/// What the engine tells its caller while it works. Every member may be empty.
struct Progress {
  std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)> step;
  std::function<void(std::string_view utf8)> text;  ///< whole code points of the answer
  const std::atomic<bool>* stop = nullptr;          ///< set: Error(kInterrupted) soon after
};

/// What the vision tower made of media, for any number of questions to the engine that encoded them.
struct EncodedMedia;

/// One question about media in order; `ids` non-empty replaces the chat template: the prompt's
/// ids with one pad id a medium.
struct Question {
  std::vector<std::unique_ptr<ClipSource>> media;
  std::shared_ptr<const EncodedMedia> encoded;  ///< in place of `media`; cannot be traced
  std::string text;
  std::vector<std::int32_t> ids;
};

/// What a model is and costs.
struct ModelSummary {
  DeviceKind device = DeviceKind::kCpu;  ///< what the figures are for: the CPU or a GPU
  std::int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, hidden = 0, context = 0;
  std::int64_t weight_bytes = 0;      ///< as the device takes them; fp8: with what loading needs
  std::int64_t kv_bytes_per_row = 0;  ///< all layers, this compute type
  bool has_tokenizer = false;         ///< tokenizer.json is there and this build reads it
  PreprocessConfig preprocess;
};

/// What a prompt of some media costs.
struct PromptCost {
  std::int64_t tokens = 0;        ///< with an empty question; without a tokenizer, visual rows only
  std::int64_t memory_bytes = 0;  ///< at its most on the device: the weights, and what `ask` checks before work starts
};

/// A model looked at: from the files' headers and tokenizer.json, for the options' device. Shapes are checked, no
/// matrix is read or taken to a GPU.
class Inspection {
 public:
  /// Throws Error as loading would.
  explicit Inspection(const EngineOptions& options);
  Inspection(Inspection&&) noexcept;
  Inspection& operator=(Inspection&&) noexcept;
  ~Inspection();

  [[nodiscard]] const ModelSummary& model() const;
  /// A prompt that passes the context is counted too. Throws Error(kInput) where the model reads no media.
  [[nodiscard]] PromptCost cost(const std::vector<ClipInfo>& media, const AskOptions& options) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A loaded checkpoint that answers questions. Not thread-safe: one question at a time.
class Engine {
 public:
  explicit Engine(const EngineOptions& options, const Progress& progress = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  [[nodiscard]] const PreprocessConfig& preprocess() const;
  [[nodiscard]] DeviceKind device() const;
  [[nodiscard]] std::int64_t vocab() const;  ///< ids of a prompt are below it

  /// Prompt rows that `question` will take (text and visual). Consumes no frame.
  [[nodiscard]] std::int64_t count_rows(const Question& question, const AskOptions& options) const;

  /// Runs the vision tower over media once, for questions that share them. Reads the media to their ends.
  [[nodiscard]] std::shared_ptr<const EncodedMedia> encode(const std::vector<std::unique_ptr<ClipSource>>& media,
                                                           const Progress& progress = {}) const;

  /// Answers; throws Error. The engine stays usable afterwards.
  Answer ask(Question question, const AskOptions& options, const Progress& progress = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace purekv
