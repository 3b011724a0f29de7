#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "cache/kv_cache.h"
#include "device/buffer.h"
#include "device/context.h"
#include "device/fence.h"
#include "flow/attention_plan.h"
#include "flow/observation.h"
#include "kernels/rope.h"
#include "model/config.h"
#include "model/positions.h"
#include "model/weights.h"

namespace purekv {

/// The language model of Qwen2.5-VL, row-wise parts. It never knows which method runs nor which mask: it is handed
/// plans and one hook a layer.
class Decoder {
 public:
  Decoder(const Context& context, const TextConfig& config, const LanguageWeights& weights);

  [[nodiscard]] const Context& context() const { return context_; }
  [[nodiscard]] const TextConfig& config() const { return config_; }
  [[nodiscard]] const LanguageWeights& weights() const { return weights_; }
  [[nodiscard]] float scale() const;  ///< 1 / sqrt(head_dim)

  /// Embedding rows of `ids` (host) into out [ids, hidden].
  void embed(std::span<const std::int32_t> ids, const MatrixView& out) const;
  /// The fused projection of hidden rows, normed first: [rows, (heads + 2 kv_heads) * head_dim], before RoPE, as a
  /// decode step reads it. The view is the decoder's own memory until the next call.
  [[nodiscard]] MatrixView project(std::int64_t layer, const ConstMatrixView& hidden) const;
  /// Queries, keys and values of hidden rows, normed first, rotated and taken apart: `to` says where they go.
  void project_heads(std::int64_t layer, const ConstMatrixView& hidden, const RopeSplitParams& to) const;
  /// hidden += W_o attended; hidden += mlp(norm(hidden)).
  void finish_layer(std::int64_t layer, const ConstMatrixView& attended, const MatrixView& hidden) const;
  /// logits [rows, vocab] float32 of hidden rows before the final norm.
  void logits(const ConstMatrixView& hidden, const MatrixView& out) const;
  /// Gram matrices of a layer's W_o, made on first use and kept with the weights.
  [[nodiscard]] GramView gram(std::int64_t layer) const;
  /// Takes the memory of `rows` rows now, so that no later call of so many rows takes any.
  void warm(std::int64_t rows) const;

 private:
  /// Rows between two operations of a layer. They stay from call to call: fresh pages cost a tenth of a prefill. So a
  /// decoder works for one thread at a time.
  struct Work {
    Matrix normed, qkv, gate, up;
  };
  /// The first `rows` rows of `memory`, which grows to hold them.
  MatrixView work(Matrix& memory, std::int64_t rows, std::int64_t cols) const;
  [[nodiscard]] NormOperand norm(const Buffer& weight, std::int64_t rows) const;

  Context context_;
  const TextConfig& config_;
  const LanguageWeights& weights_;
  mutable Work work_;
};

/// What one prefill works on. `hidden` is changed in place: after k steps it holds the rows after
/// k layers.
struct PrefillRequest {
  MatrixView hidden;                ///< [l, hidden] context.activation()
  const RopeTable* rope = nullptr;  ///< l rows
  const FrameTable* table = nullptr;
  const AttentionPlan* dense = nullptr;   ///< layers below sparse_from
  const AttentionPlan* sparse = nullptr;  ///< layers from sparse_from on
  std::int64_t sparse_from = 0;
  std::int64_t chunk = 512;  ///< rows a chunk of the row-wise work
  bool all_rows = false;     ///< the last layer finishes every row, not only the last
  const std::atomic<bool>* stop = nullptr;
};

/// Layer-major prefill that can be left and resumed between layers: each step runs one layer over
/// the whole prompt, lets the hook choose, and compacts that layer's rows into the cache before the
/// next layer takes its scratch. So the full cache never exists.
class Prefill {
 public:
  Prefill(const Decoder& decoder, KvCache& cache, const PrefillRequest& request);

  [[nodiscard]] bool done() const { return layer_ == decoder_.config().layers; }
  [[nodiscard]] std::int64_t layer() const { return layer_; }
  /// `lse`: the observation carries the log-sum-exp.
  void step(const LayerHook& hook, bool lse);
  /// Logits of the last row, [1, vocab] float32. Computed from a path of its own, so that they are the same
  /// bits at every budget, method and trace setting.
  void last_logits(const MatrixView& out);

 private:
  void project(LayerScratch& scratch);
  void attend(const LayerScratch& scratch, bool lse);
  void attend_last_row(const LayerScratch& scratch);
  void finish_rows();
  void check_stop() const;

  const Decoder& decoder_;
  KvCache& cache_;
  PrefillRequest request_;
  std::int64_t layer_ = 0;
  Matrix q_, attended_, last_;
  std::array<Fence, 2> queued_;  ///< ends of the last two layers
  Buffer lse_;                   ///< [heads, l] float32
};

}  // namespace purekv
