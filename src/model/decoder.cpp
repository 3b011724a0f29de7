#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/embed.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"

namespace purekv {

Decoder::Decoder(const Context& context, const TextConfig& config, const LanguageWeights& weights)
    : context_(context), config_(config), weights_(weights) {}

float Decoder::scale() const { return 1.0F / std::sqrt(static_cast<float>(config_.heads.head_dim)); }

MatrixView Decoder::work(Matrix& memory, std::int64_t rows, std::int64_t cols) const {
  if (memory.view().rows < rows) memory = Matrix(context_, DType::kF32, rows, cols);
  return memory.slice(0, rows);
}

void Decoder::embed(std::span<const std::int32_t> ids, const MatrixView& out) const {
  purekv::embed(context_, {.table = weights_.embed, .ids = ids.data(), .out = out});
}

void Decoder::project(std::int64_t layer, const ConstMatrixView& hidden, const RopeTable& rope, std::int64_t rope_row,
                      const MatrixView& q, const KvTarget& kv) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  const HeadShape& heads = config_.heads;
  const std::int64_t kv_width = heads.kv_heads * heads.head_dim;
  const MatrixView x = work(work_.normed, hidden.rows, config_.hidden);
  const MatrixView fresh = work(work_.fresh, hidden.rows, kv_width);
  rms_norm(context_, {.x = hidden, .weight = w.input_norm.data(), .eps = config_.rms_eps, .out = x});
  linear(context_, {.x = x, .weight = w.q.weight, .bias = w.q.bias_or_null(), .out = q});
  RopeParams rotate{.x = q,
                    .cos = rope.cos.data() + rope_row * (heads.head_dim / 2),
                    .sin = rope.sin.data() + rope_row * (heads.head_dim / 2),
                    .heads = heads.heads,
                    .head_dim = heads.head_dim,
                    .out = q.data,
                    .out_dtype = DType::kF32,
                    .head_stride = heads.head_dim,
                    .row_stride = q.stride};
  rope_store(context_, rotate);
  linear(context_, {.x = x, .weight = w.k.weight, .bias = w.k.bias_or_null(), .out = fresh});
  rotate.x = fresh;
  rotate.heads = heads.kv_heads;
  rotate.out = kv.keys;
  rotate.out_dtype = context_.compute;
  rotate.head_stride = kv.head_stride;
  rotate.row_stride = kv.row_stride;
  rope_store(context_, rotate);
  linear(context_, {.x = x, .weight = w.v.weight, .bias = w.v.bias_or_null(), .out = fresh});
  rotate.out = kv.values;
  rotate.cos = rotate.sin = nullptr;
  rope_store(context_, rotate);
}

void Decoder::finish_layer(std::int64_t layer, const ConstMatrixView& attended, const MatrixView& hidden) const {
  const DecoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
  linear(context_,
         {.x = attended, .weight = w.o.weight, .bias = w.o.bias_or_null(), .out = hidden, .accumulate = true});
  const MatrixView normed = work(work_.normed, hidden.rows, config_.hidden);
  const MatrixView gate = work(work_.gate, hidden.rows, config_.ffn);
  const MatrixView up = work(work_.up, hidden.rows, config_.ffn);
  rms_norm(context_, {.x = hidden, .weight = w.post_norm.data(), .eps = config_.rms_eps, .out = normed});
  linear(context_, {.x = normed, .weight = w.gate.weight, .bias = w.gate.bias_or_null(), .out = gate});
  linear(context_, {.x = normed, .weight = w.up.weight, .bias = w.up.bias_or_null(), .out = up});
  swiglu(context_, gate, up);
  linear(context_,
         {.x = gate, .weight = w.down.weight, .bias = w.down.bias_or_null(), .out = hidden, .accumulate = true});
}

void Decoder::logits(const ConstMatrixView& hidden, const MatrixView& out) const {
  const MatrixView normed = work(work_.normed, hidden.rows, config_.hidden);
  rms_norm(context_, {.x = hidden, .weight = weights_.norm.data(), .eps = config_.rms_eps, .out = normed});
  linear(context_, {.x = normed, .weight = weights_.head, .out = out});
}

void Decoder::decode_step(std::int32_t id, std::int32_t position, std::int32_t token, KvCache& cache,
                          const MatrixView& logits_out) const {
  const HeadShape& heads = config_.heads;
  const std::int64_t kv_width = heads.kv_heads * heads.head_dim;
  const std::int64_t row_bytes = heads.head_dim * static_cast<std::int64_t>(size_of(context_.compute));
  Matrix hidden(context_, DType::kF32, 1, config_.hidden);
  Matrix q(context_, DType::kF32, 1, heads.heads * heads.head_dim);
  Matrix attended(context_, DType::kF32, 1, heads.heads * heads.head_dim);
  Matrix keys(context_, context_.compute, 1, kv_width);
  Matrix values(context_, context_.compute, 1, kv_width);
  const RopeTable rope = make_rope_table(config_, position);
  embed({&id, 1}, hidden.view());
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    project(layer, hidden.view(), rope, 0, q.view(), {keys.view().data, values.view().data, heads.head_dim, kv_width});
    const KvCache::AppendSlot slot = cache.append(layer, token);
    for (std::int64_t h = 0; h < heads.kv_heads; ++h) {
      const auto at = static_cast<std::size_t>(h);
      std::memcpy(slot.k[at], static_cast<std::byte*>(keys.view().data) + h * row_bytes,
                  static_cast<std::size_t>(row_bytes));
      std::memcpy(slot.v[at], static_cast<std::byte*>(values.view().data) + h * row_bytes,
                  static_cast<std::size_t>(row_bytes));
    }
    attention(context_, {.shape = heads,
                         .scale = scale(),
                         .q = q.view(),
                         .cached = cache.view(layer),
                         .fresh = {},
                         .plan = nullptr,
                         .out = attended.view()});
    finish_layer(layer, attended.view(), hidden.view());
  }
  logits(hidden.view(), logits_out);
}

}  // namespace purekv
