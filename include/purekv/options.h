#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace purekv {

enum class DeviceKind { kAuto, kCpu, kCuda };
enum class ComputeType { kDefault, kF32, kBf16 };
enum class WeightType { kF32, kBf16, kFp8 };

/// How many rows a layer and KV head may keep: a share of the base, or a row count.
struct Budget {
  bool is_percent = true;
  double percent = 20.0;  ///< (0, 100]
  std::int64_t rows = 0;  ///< >= 1 where !is_percent
};

enum class Method { kFull, kPureKv, kRandom };
enum class BudgetBase { kPrompt, kVideo };
enum class Score { kOwn, kClie, kFrame, kOwnFrame, kClieFrame };
enum class RowReduce { kSum, kMax };
enum class GqaReduce { kMean, kMax };
enum class ValueNorm { kL2, kOut, kOff };
enum class Pattern { kDense, kSpatialTemporal, kSpatial, kTemporal, kLocal, kAtrous };

/// Which rows of the cache stay after a layer's prefill (docs/interfaces.md).
struct CompressionOptions {
  Method method = Method::kPureKv;
  Budget budget;
  BudgetBase budget_base = BudgetBase::kPrompt;
  std::int64_t window = 64;        ///< rows; `window_is_question`: at most so many question rows
  bool window_is_question = true;  ///< preset `purekv`: the rows after the last visual row
  std::int64_t sinks = 0;
  Score score = Score::kOwnFrame;
  std::int64_t clie_layer = 2;  ///< 0-based; >= layers means own scores everywhere
  RowReduce row_reduce = RowReduce::kMax;
  GqaReduce gqa_reduce = GqaReduce::kMax;
  ValueNorm vnorm = ValueNorm::kOut;
  std::uint64_t seed = 0;  ///< method random
};

/// Which keys a prefill row sees, from layer `sparse_from` on (docs/method.md).
struct AttentionOptions {
  Pattern pattern = Pattern::kDense;
  std::optional<std::int64_t> sparse_from;  ///< unset: 0, or the preset's rule
  std::int64_t local_window = 0;            ///< required by kLocal
  std::int64_t atrous_rate = 0;             ///< required by kAtrous
};

struct GenerationOptions {
  std::int64_t max_tokens = 128;
  std::optional<double> temperature;  ///< unset: generation_config.json; 0 is greedy
  std::optional<double> top_p;
  std::optional<std::int64_t> top_k;
  std::optional<double> repetition_penalty;
  std::uint64_t seed = 0;
  bool ignore_eos = false;
};

/// Every knob of one question.
struct AskOptions {
  std::string preset = "purekv";
  CompressionOptions compression;
  AttentionOptions attention;
  GenerationOptions generation;
  std::optional<std::string> system;  ///< replaces "You are a helpful assistant."
  std::int64_t prefill_chunk = 0;     ///< rows a chunk of the row-wise work; 0: what fills the device
  std::string trace_dir;              ///< empty: no trace
};

/// The two presets of docs/method.md. `sparse_from` of `purekv-paper` depends on the model and stays unset
/// (max(round(0.71 L), clie_layer + 1)); throws Error(kUsage) for another name.
AskOptions preset_options(const std::string& name);

}  // namespace purekv
