#include "model/decoder.h"

#include <cmath>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "device/transfer.h"
#include "kernels/embed.h"
#include "kernels/linear.h"
#include "kernels/mlp.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_linear.h"
#include "kernels/value_norm.h"

namespace purekv {

Decoder::Decoder(const Context& context, const TextConfig& config, const LanguageWeights& weights)
    : context_(context), config_(config), weights_(weights) {}

float Decoder::scale() const { return 1.0F / std::sqrt(static_cast<float>(config_.heads.head_dim)); }

MatrixView Decoder::work(Matrix& memory, std::int64_t rows, std::int64_t cols) const {
  if (memory.view().rows < rows) {
    memory = Matrix();  // first, so that the old and the new rows are never both there
    memory = Matrix(context_, context_.activation(), rows, cols);
  }
  return memory.slice(0, rows);
}

NormOperand Decoder::norm(const Buffer& weight, std::int64_t rows) const {
  return {.weight = weight.as<float>(), .eps = config_.rms_eps, .work = work(work_.normed, rows, config_.hidden)};
}

void Decoder::warm(std::int64_t rows) const {
  work(work_.normed, rows, config_.hidden);
  work(work_.qkv, rows, config_.heads.qkv_cols());
  work(work_.gate, rows, config_.ffn);
  work(work_.up, rows, config_.ffn);
}

void Decoder::embed(std::span<const std::int32_t> ids, const MatrixView& out) const {
  for (const std::int32_t id : ids) PUREKV_ASSERT(id >= 0 && id < config_.vocab);
  const Buffer on_device = to_device(context_, std::vector<std::int32_t>(ids.begin(), ids.end()));
  purekv::embed(context_, {.table = weights_.embed, .ids = on_device.as<std::int32_t>(), .out = out});
}

MatrixView Decoder::project(std::int64_t layer, const ConstMatrixView& hidden) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const std::int64_t q_width = config_.heads.heads * config_.heads.head_dim;
  const std::int64_t kv_width = config_.heads.kv_heads * config_.heads.head_dim;
  const NormOperand input_norm = norm(w.input_norm, hidden.rows);
  const MatrixView qkv = work(work_.qkv, hidden.rows, config_.heads.qkv_cols());
  if (w.qkv.weight.data != nullptr) {
    linear(context_, {.x = hidden, .norm = input_norm, .w = w.qkv.operand(), .out = qkv});
    return qkv;
  }
  const MatrixView x = input_norm.work;
  rms_norm(context_, {.x = hidden, .weight = input_norm.weight, .eps = input_norm.eps, .out = x});
  linear(context_, {.x = x, .norm = {}, .w = w.q.operand(), .out = qkv.columns(0, q_width)});
  linear(context_, {.x = x, .norm = {}, .w = w.k.operand(), .out = qkv.columns(q_width, kv_width)});
  linear(context_, {.x = x, .norm = {}, .w = w.v.operand(), .out = qkv.columns(q_width + kv_width, kv_width)});
  return qkv;
}

void Decoder::project_heads(std::int64_t layer, const ConstMatrixView& hidden, const RopeSplitParams& to) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const HeadShape& heads = config_.heads;
  if (w.qkv.weight.data == nullptr) {
    RopeSplitParams split = to;
    split.qkv = project(layer, hidden);
    return rope_split(context_, split);
  }
  const bool stores = rope_linear_stores(context_, heads, hidden.rows, config_.hidden);
  rope_linear(context_, {.x = hidden,
                         .norm = norm(w.input_norm, hidden.rows),
                         .w = w.qkv.operand(),
                         .work = stores ? work(work_.qkv, hidden.rows, heads.qkv_cols()) : MatrixView(),
                         .to = to});
}

void Decoder::finish_layer(std::int64_t layer, const ConstMatrixView& attended, const MatrixView& hidden) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  linear(context_, {.x = attended, .norm = {}, .w = w.o.operand(), .out = hidden, .accumulate = true});
  const bool stores_up = mlp_stores_up(context_, hidden.rows, config_.hidden, config_.ffn);
  mlp(context_, {.x = hidden,
                 .norm = norm(w.post_norm, hidden.rows),
                 .gate = w.gate.operand(),
                 .up = w.up.operand(),
                 .down = w.down.operand(),
                 .gate_work = work(work_.gate, hidden.rows, config_.ffn),
                 .up_work = stores_up ? work(work_.up, hidden.rows, config_.ffn) : MatrixView(),
                 .out = hidden});
}

GramView Decoder::gram(std::int64_t layer) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const HeadShape& heads = config_.heads;
  if (w.gram.bytes() == 0 && w.packed_gram.bytes() == 0) {
    const std::int64_t floats = heads.heads * heads.head_dim * heads.head_dim;
    Buffer made(context_, floats * static_cast<std::int64_t>(sizeof(float)));
    Buffer packed(context_, packed_gram_bytes(context_, heads));
    purekv::gram(context_, {.shape = heads,
                            .w_o = w.o.weight,
                            .scales = w.o.scales.as<float>(),
                            .gram = made.as<float>(),
                            .packed = packed.data()});
    // Kept only once it is whole: the call may run out of memory. A GPU reads the packed form alone.
    if (packed.bytes() == 0) w.gram = std::move(made);
    w.packed_gram = std::move(packed);
  }
  return {w.gram.as<float>(), w.packed_gram.data()};
}

void Decoder::logits(const ConstMatrixView& hidden, const MatrixView& out) const {
  linear(context_, {.x = hidden, .norm = norm(weights_.norm, hidden.rows), .w = {.weight = weights_.head}, .out = out});
}

}  // namespace purekv
