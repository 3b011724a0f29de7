#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "base/matrix.h"
#include "device/buffer.h"
#include "kernels/linear.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace purekv {

/// A linear layer. The CPU reads the weight where the file holds it, in the file's type; a GPU has a copy in bf16 or
/// fp8. The bias is small and always copied.
struct LinearWeight {
  ConstMatrixView weight;  ///< [out, in]; data null: this layer has none
  Buffer bias;             ///< [out] float32, or empty
  Buffer bias16;           ///< [out] bf16, or empty
  Buffer scales;           ///< [out] float32 where the weight is fp8
  [[nodiscard]] LinearOperand operand() const {
    return {.weight = weight, .bias = bias.as<float>(), .bias16 = bias16.data(), .scales = scales.as<float>()};
  }
};

/// Either `qkv` (rows of q, k and v in one matrix, one product instead of three) or the three apart.
struct DecoderLayerWeights {
  Buffer input_norm, post_norm;  ///< [hidden] float32
  LinearWeight qkv, q, k, v;
  LinearWeight o, gate, up, down;
  mutable Buffer gram, packed_gram;  ///< of W_o (flow/observation.h), made on first use
};

struct LanguageWeights {
  ConstMatrixView embed;  ///< [vocab, hidden]
  std::vector<DecoderLayerWeights> layers;
  Buffer norm;                ///< [hidden]
  ConstMatrixView head;       ///< [vocab, hidden]; the embedding where tied
  std::vector<Matrix> owned;  ///< what the views above point at where it is not a mapped file
  std::int64_t bytes = 0;     ///< of the matrices
};

struct VisionBlockWeights {
  Buffer norm1, norm2;
  LinearWeight qkv, proj, gate, up, down;  ///< gate, up and down may be padded with zeros to a wider ffn
};

struct VisionWeights {
  ConstMatrixView patch_embed;  ///< [hidden, channels * temporal * patch * patch]
  std::vector<VisionBlockWeights> blocks;
  Buffer merger_norm;
  LinearWeight merger_in, merger_out;
  std::vector<Matrix> owned;
  std::int64_t bytes = 0;
};

/// How the weights are held; `step` is told of matrices done and in all.
struct WeightOptions {
  DType dtype = DType::kBF16;  ///< on a GPU: bf16, or fp8 for the language model's linear layers
  std::function<void(std::int64_t done, std::int64_t total)> step;
};

/// Every shape is checked against `config`. On the CPU the matrices are views into `checkpoint`, which must outlive
/// them; on a GPU they are copied tensor by tensor from the mapped file, so host memory never holds them twice, and
/// the checkpoint may go. Throws Error(kInput), or Error(kResource) where the device is full.
LanguageWeights bind_language(const Context& context, const Checkpoint& checkpoint, const TextConfig& config,
                              const WeightOptions& options = {});
VisionWeights bind_vision(const Context& context, const Checkpoint& checkpoint, const VisionConfig& config,
                          const WeightOptions& options = {});

/// Random weights of the same shapes and layout, for benchmarks and memory tests.
LanguageWeights random_language(const Context& context, const TextConfig& config, DType dtype);
VisionWeights random_vision(const Context& context, const VisionConfig& config, DType dtype);

/// Weight elements of one decoder layer and of one vision block, without biases and norms.
std::int64_t layer_weights(const TextConfig& text);
std::int64_t block_weights(const VisionConfig& vision);

/// Bytes of the matrices of a model.
std::int64_t bytes_of(const std::vector<Matrix>& owned);

/// A GPU's rows of 16-bit values start at 16 bytes only where their count is a multiple of 8: the tower's MLP of 3,420
/// ran 2.7 times faster padded (docs/architecture.md).
[[nodiscard]] constexpr std::int64_t padded_ffn(std::int64_t ffn) {
  constexpr std::int64_t kStep = 32;
  return (ffn + kStep - 1) / kStep * kStep;
}

}  // namespace purekv
