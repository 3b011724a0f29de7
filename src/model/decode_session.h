#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/kv_batch.h"
#include "device/buffer.h"
#include "device/replay.h"
#include "model/decoder.h"

namespace purekv {

/// Decoding of several sequences, one row each a step. Everything a step reads and writes has a fixed address, ids and
/// positions are chosen and raised on the device, so that a step is one replayed graph there.
class DecodeSession {
 public:
  /// `positions` [sequences]: of the first decoded rows, the model's own counters and never the cache lengths.
  /// The caches have been prefilled and outlive the session.
  DecodeSession(const Decoder& decoder, std::vector<KvCache*> caches, std::span<const std::int32_t> positions);

  [[nodiscard]] std::int64_t sequences() const { return batch_.sequences(); }
  [[nodiscard]] std::int32_t* ids() const { return ids_.as<std::int32_t>(); }  ///< device, [sequences]: the next rows
  [[nodiscard]] const MatrixView& logits() const { return logits_.view(); }    ///< device, [sequences, vocab] float32
  /// Part of every step once the logits are there (choosing ids); set before the first step, captured with it.
  void after_logits(std::function<void()> work) { after_logits_ = std::move(work); }

  /// Runs ids() through all layers: appends a row to every head of every cache and leaves logits. `tokens`
  /// [sequences] are the new rows' sequence indices. Only queued on a GPU.
  void step(std::span<const std::int32_t> tokens);

 private:
  void run_layers();
  void run_layer(std::int64_t layer);

  const Decoder& decoder_;
  KvBatch batch_;
  Buffer ids_, positions_, frequency_, cos_, sin_, work_;
  Matrix hidden_, attended_, logits_;
  std::int64_t most_rows_ = 0;  ///< what the captured step was sized for
  std::function<void()> after_logits_;
  Replay replay_;
};

}  // namespace purekv
