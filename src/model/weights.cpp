#include "model/weights.h"

#include <fmt/format.h>

#include <cstring>

namespace purekv {
namespace {

/// Views and conversions by name, below one prefix.
class Binder {
 public:
  explicit Binder(const Checkpoint& checkpoint, std::string prefix = {})
      : checkpoint_(checkpoint), prefix_(std::move(prefix)) {}

  [[nodiscard]] Binder below(const std::string& more) const { return Binder(checkpoint_, prefix_ + more); }

  [[nodiscard]] ConstMatrixView matrix(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    return flat(checkpoint_.tensor(prefix_ + name, {rows, cols}), rows, cols);
  }

  /// A tensor of any rank, seen as `rows` rows.
  [[nodiscard]] static ConstMatrixView flat(const TensorView& tensor, std::int64_t rows, std::int64_t cols) {
    return {tensor.data, tensor.dtype, rows, cols, cols};
  }

  [[nodiscard]] std::vector<float> vector(const std::string& name, std::int64_t size) const {
    const TensorView& tensor = checkpoint_.tensor(prefix_ + name, {size});
    std::vector<float> out(static_cast<std::size_t>(size));
    switch (tensor.dtype) {
      case DType::kF32:
        std::memcpy(out.data(), tensor.data, out.size() * sizeof(float));
        break;
      case DType::kBF16:
        widen<BFloat16>(tensor.data, out);
        break;
      case DType::kF16:
        widen<Float16>(tensor.data, out);
        break;
    }
    return out;
  }

  [[nodiscard]] LinearWeight linear(const std::string& name, std::int64_t out, std::int64_t in) const {
    return {matrix(name + ".weight", out, in), {}};
  }
  [[nodiscard]] LinearWeight biased(const std::string& name, std::int64_t out, std::int64_t in) const {
    return {matrix(name + ".weight", out, in), vector(name + ".bias", out)};
  }

 private:
  template <class T>
  static void widen(const void* data, std::vector<float>& out) {
    const auto* bytes = static_cast<const std::byte*>(data);
    for (std::size_t i = 0; i < out.size(); ++i) {
      T value;
      std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));  // a file may place it at an odd address
      out[i] = to_float(value);
    }
  }

  const Checkpoint& checkpoint_;
  std::string prefix_;
};

DecoderLayerWeights bind_decoder_layer(const Binder& layer, const TextConfig& config) {
  const std::int64_t hidden = config.hidden;
  const std::int64_t q = config.heads.heads * config.heads.head_dim;
  const std::int64_t kv = config.heads.kv_heads * config.heads.head_dim;
  DecoderLayerWeights w;
  w.input_norm = layer.vector("input_layernorm.weight", hidden);
  w.post_norm = layer.vector("post_attention_layernorm.weight", hidden);
  w.q = layer.biased("self_attn.q_proj", q, hidden);
  w.k = layer.biased("self_attn.k_proj", kv, hidden);
  w.v = layer.biased("self_attn.v_proj", kv, hidden);
  w.o = layer.linear("self_attn.o_proj", hidden, q);
  w.gate = layer.linear("mlp.gate_proj", config.ffn, hidden);
  w.up = layer.linear("mlp.up_proj", config.ffn, hidden);
  w.down = layer.linear("mlp.down_proj", hidden, config.ffn);
  return w;
}

VisionBlockWeights bind_vision_block(const Binder& block, const VisionConfig& config) {
  VisionBlockWeights w;
  w.norm1 = block.vector("norm1.weight", config.hidden);
  w.norm2 = block.vector("norm2.weight", config.hidden);
  w.qkv = block.biased("attn.qkv", 3 * config.hidden, config.hidden);
  w.proj = block.biased("attn.proj", config.hidden, config.hidden);
  w.gate = block.biased("mlp.gate_proj", config.ffn, config.hidden);
  w.up = block.biased("mlp.up_proj", config.ffn, config.hidden);
  w.down = block.biased("mlp.down_proj", config.hidden, config.ffn);
  return w;
}

}  // namespace

LanguageWeights bind_language(const Checkpoint& checkpoint, const TextConfig& config) {
  const Binder model(checkpoint, "model.");
  LanguageWeights w;
  w.embed = model.matrix("embed_tokens.weight", config.vocab, config.hidden);
  for (std::int64_t i = 0; i < config.layers; ++i)
    w.layers.push_back(bind_decoder_layer(model.below(fmt::format("layers.{}.", i)), config));
  w.norm = model.vector("norm.weight", config.hidden);
  w.head = config.tied ? w.embed : Binder(checkpoint).matrix("lm_head.weight", config.vocab, config.hidden);
  return w;
}

VisionWeights bind_vision(const Checkpoint& checkpoint, const VisionConfig& config) {
  const Binder visual(checkpoint, "visual.");
  VisionWeights w;
  // A Conv3d kernel whose stride is its size: flattened, it is a matrix over the values of a patch.
  const TensorView& kernel =
      checkpoint.tensor("visual.patch_embed.proj.weight",
                        {config.hidden, config.channels, config.temporal_patch, config.patch, config.patch});
  w.patch_embed = Binder::flat(kernel, config.hidden, config.patch_values());
  for (std::int64_t i = 0; i < config.depth; ++i)
    w.blocks.push_back(bind_vision_block(visual.below(fmt::format("blocks.{}.", i)), config));
  const std::int64_t merged = config.merge * config.merge * config.hidden;
  w.merger_norm = visual.vector("merger.ln_q.weight", config.hidden);
  w.merger_in = visual.biased("merger.mlp.0", merged, merged);
  w.merger_out = visual.biased("merger.mlp.2", config.out_hidden, merged);
  return w;
}

}  // namespace purekv
