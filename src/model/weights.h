#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/matrix.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace purekv {

/// A linear layer: the weight as the file holds it, the bias (small) as float32.
struct LinearWeight {
  ConstMatrixView weight;   ///< [out, in]
  std::vector<float> bias;  ///< [out] or empty
  [[nodiscard]] const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

struct DecoderLayerWeights {
  std::vector<float> input_norm, post_norm;  ///< [hidden]
  LinearWeight q, k, v, o, gate, up, down;
};

struct LanguageWeights {
  ConstMatrixView embed;  ///< [vocab, hidden]
  std::vector<DecoderLayerWeights> layers;
  std::vector<float> norm;  ///< [hidden]
  ConstMatrixView head;     ///< [vocab, hidden]; the embedding where tied
};

struct VisionBlockWeights {
  std::vector<float> norm1, norm2;
  LinearWeight qkv, proj, gate, up, down;
};

struct VisionWeights {
  ConstMatrixView patch_embed;  ///< [hidden, channels * temporal * patch * patch]
  std::vector<VisionBlockWeights> blocks;
  std::vector<float> merger_norm;
  LinearWeight merger_in, merger_out;
};

/// Views into `checkpoint` (which must outlive them), every shape checked against `config`.
LanguageWeights bind_language(const Checkpoint& checkpoint, const TextConfig& config);
VisionWeights bind_vision(const Checkpoint& checkpoint, const VisionConfig& config);

/// Random weights of the same shapes, for benchmarks and memory tests: one owner of plain memory.
struct RandomModel {
  std::unique_ptr<std::byte[]> memory;
  LanguageWeights language;
  VisionWeights vision;
  std::int64_t bytes = 0;
};
RandomModel random_model(const ModelConfig& config, DType dtype, bool language, bool vision);

}  // namespace purekv
