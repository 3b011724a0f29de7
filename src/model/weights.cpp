#include "model/weights.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "model/weight_memory.h"

namespace purekv {
namespace {

/// Tensors by name, below one prefix, on their way to where kernels read them.
class Binder {
 public:
  Binder(const Checkpoint& checkpoint, WeightMemory& memory, std::string prefix = {})
      : checkpoint_(checkpoint), memory_(memory), prefix_(std::move(prefix)) {}

  [[nodiscard]] Binder below(const std::string& more) const { return {checkpoint_, memory_, prefix_ + more}; }

  [[nodiscard]] ConstMatrixView matrix(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    return flat(checkpoint_.tensor(prefix_ + name, {rows, cols}), rows, cols);
  }

  /// A tensor of any rank, seen as `rows` rows.
  [[nodiscard]] static ConstMatrixView flat(const TensorView& tensor, std::int64_t rows, std::int64_t cols) {
    return {tensor.data, tensor.dtype, rows, cols, cols};
  }

  [[nodiscard]] std::vector<float> host_vector(const std::string& name, std::int64_t size) const {
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
      case DType::kFp8:
        widen<Float8>(tensor.data, out);
        break;
    }
    return out;
  }
  [[nodiscard]] Buffer vector(const std::string& name, std::int64_t size) const {
    return memory_.vector(host_vector(name, size));
  }

  [[nodiscard]] LinearWeight linear(const std::string& name, std::int64_t out, std::int64_t in) const {
    const std::array parts = {matrix(name + ".weight", out, in)};
    return memory_.linear(parts, {});
  }
  /// Padded with zeros to `rows` by `cols` where the memory copies.
  [[nodiscard]] LinearWeight biased(const std::string& name, std::int64_t out, std::int64_t in, std::int64_t rows = 0,
                                    std::int64_t cols = 0) const {
    const std::array parts = {matrix(name + ".weight", out, in)};
    const bool pads = !memory_.in_place();
    return memory_.linear(parts, host_vector(name + ".bias", out), pads ? rows : 0, pads ? cols : 0);
  }

  /// q, k and v of an attention layer, joined where they are copied anyway.
  void attention(DecoderLayerWeights& w, const TextConfig& config) const {
    const std::int64_t q = config.heads.heads * config.heads.head_dim;
    const std::int64_t kv = config.heads.kv_heads * config.heads.head_dim;
    if (memory_.in_place()) {
      w.q = biased("self_attn.q_proj", q, config.hidden);
      w.k = biased("self_attn.k_proj", kv, config.hidden);
      w.v = biased("self_attn.v_proj", kv, config.hidden);
      return;
    }
    const std::array parts = {matrix("self_attn.q_proj.weight", q, config.hidden),
                              matrix("self_attn.k_proj.weight", kv, config.hidden),
                              matrix("self_attn.v_proj.weight", kv, config.hidden)};
    std::vector<float> bias = host_vector("self_attn.q_proj.bias", q);
    for (const char* name : {"self_attn.k_proj.bias", "self_attn.v_proj.bias"}) {
      const std::vector<float> more = host_vector(name, kv);
      bias.insert(bias.end(), more.begin(), more.end());
    }
    w.qkv = memory_.linear(parts, bias);
  }

 private:
  template <class T>
  static void widen(const void* data, std::vector<float>& out) {
    // A file may place the tensor at an odd address.
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = to_float(load_element<T>(data, static_cast<std::int64_t>(i)));
  }

  const Checkpoint& checkpoint_;
  WeightMemory& memory_;
  std::string prefix_;
};

DecoderLayerWeights bind_decoder_layer(const Binder& layer, const TextConfig& config) {
  DecoderLayerWeights w;
  w.input_norm = layer.vector("input_layernorm.weight", config.hidden);
  w.post_norm = layer.vector("post_attention_layernorm.weight", config.hidden);
  layer.attention(w, config);
  w.o = layer.linear("self_attn.o_proj", config.hidden, config.heads.heads * config.heads.head_dim);
  w.gate = layer.linear("mlp.gate_proj", config.ffn, config.hidden);
  w.up = layer.linear("mlp.up_proj", config.ffn, config.hidden);
  w.down = layer.linear("mlp.down_proj", config.hidden, config.ffn);
  return w;
}

VisionBlockWeights bind_vision_block(const Binder& block, const VisionConfig& config) {
  const std::int64_t wide = padded_ffn(config.ffn);
  VisionBlockWeights w;
  w.norm1 = block.vector("norm1.weight", config.hidden);
  w.norm2 = block.vector("norm2.weight", config.hidden);
  w.qkv = block.biased("attn.qkv", 3 * config.hidden, config.hidden);
  w.proj = block.biased("attn.proj", config.hidden, config.hidden);
  w.gate = block.biased("mlp.gate_proj", config.ffn, config.hidden, wide);
  w.up = block.biased("mlp.up_proj", config.ffn, config.hidden, wide);
  w.down = block.biased("mlp.down_proj", config.hidden, config.ffn, 0, wide);
  return w;
}

}  // namespace

std::int64_t layer_weights(const TextConfig& text) {
  const std::int64_t q = text.hidden * text.heads.heads * text.heads.head_dim;
  const std::int64_t kv = text.hidden * text.heads.kv_heads * text.heads.head_dim;
  return 2 * q + 2 * kv + 3 * text.hidden * text.ffn;
}

std::int64_t block_weights(const VisionConfig& v) { return 4 * v.hidden * v.hidden + 3 * v.hidden * v.ffn; }

std::int64_t bytes_of(const std::vector<Matrix>& owned) {
  std::int64_t bytes = 0;
  for (const Matrix& m : owned)
    bytes += m.view().rows * m.view().cols * static_cast<std::int64_t>(size_of(m.view().dtype));
  return bytes;
}

LanguageWeights bind_language(const Context& context, const Checkpoint& checkpoint, const TextConfig& config,
                              const WeightOptions& options) {
  LanguageWeights w;
  WeightMemory linears(context, options.dtype, w.owned);
  const Binder root(checkpoint, linears);
  const Binder model = root.below("model.");
  w.embed = linears.table(model.matrix("embed_tokens.weight", config.vocab, config.hidden));
  for (std::int64_t i = 0; i < config.layers; ++i) {
    w.layers.push_back(bind_decoder_layer(model.below(fmt::format("layers.{}.", i)), config));
    if (options.step) options.step(i + 1, config.layers);
  }
  w.norm = model.vector("norm.weight", config.hidden);
  w.head = config.tied ? w.embed : linears.table(root.matrix("lm_head.weight", config.vocab, config.hidden));
  w.bytes = bytes_of(w.owned);
  return w;
}

VisionWeights bind_vision(const Context& context, const Checkpoint& checkpoint, const VisionConfig& config,
                          const WeightOptions& options) {
  VisionWeights w;
  WeightMemory memory(context, DType::kBF16, w.owned);
  const Binder visual(checkpoint, memory, "visual.");
  // A Conv3d kernel whose stride is its size: flattened, it is a matrix over the values of a patch.
  const TensorView& kernel =
      checkpoint.tensor("visual.patch_embed.proj.weight",
                        {config.hidden, config.channels, config.temporal_patch, config.patch, config.patch});
  w.patch_embed = memory.table(Binder::flat(kernel, config.hidden, config.patch_values()));
  for (std::int64_t i = 0; i < config.depth; ++i) {
    w.blocks.push_back(bind_vision_block(visual.below(fmt::format("blocks.{}.", i)), config));
    if (options.step) options.step(i + 1, config.depth);
  }
  const std::int64_t merged = config.merge * config.merge * config.hidden;
  w.merger_norm = visual.vector("merger.ln_q.weight", config.hidden);
  w.merger_in = visual.biased("merger.mlp.0", merged, merged);
  w.merger_out = visual.biased("merger.mlp.2", config.out_hidden, merged);
  w.bytes = bytes_of(w.owned);
  return w;
}

}  // namespace purekv
