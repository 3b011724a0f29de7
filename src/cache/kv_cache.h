#pragma once

#include <cstdint>
#include <vector>

#include "base/byte_counter.h"
#include "base/shape.h"
#include "device/buffer.h"
#include "device/context.h"
#include "flow/keep_list.h"
#include "flow/kv_view.h"

namespace purekv {

/// One layer's rows while its prefill is in flight: [kv_heads][l][head_dim] keys, then values.
/// It is counted like the cache, because it is KV memory.
class LayerScratch {
 public:
  LayerScratch(const Context& context, const HeadShape& shape, std::int64_t rows, ByteCounter* counter);
  [[nodiscard]] KvView view() const;
  [[nodiscard]] void* keys() const { return k_.data(); }  ///< row stride head_dim, head stride rows * head_dim
  [[nodiscard]] void* values() const { return v_.data(); }
  [[nodiscard]] std::int64_t rows() const { return rows_; }

 private:
  friend class KvCache;
  HeadShape shape_;
  DType dtype_;
  std::int64_t rows_;
  Buffer k_, v_;
};

/// Ragged KV cache of one sequence: per layer and KV head its own length. A row stores the sequence
/// index it came from (its position); slot order means nothing to callers. Keys keep the RoPE
/// position they were written with. Kernels find the rows through a KvBatch.
class KvCache {
 public:
  KvCache(const Context& context, const HeadShape& shape, std::int64_t layers);
  KvCache(const KvCache&) = delete;  // buffers point at the counter
  KvCache& operator=(const KvCache&) = delete;

  [[nodiscard]] ByteCounter* counter() { return &counter_; }
  /// Takes a layer's scratch: the kept rows only (nullptr: all). The scratch is freed. `first` is
  /// the sequence index of scratch row 0.
  void apply(std::int64_t layer, LayerScratch scratch, const CompactionPlan* plan, std::int32_t first = 0);
  /// Room for one more row in every head of `layer` (grows by at most 32 rows a head, which moves the rows).
  void reserve(std::int64_t layer);
  /// Counts the row that a decode step has written to every head of every layer; its sequence index is `token`.
  void appended(std::int32_t token);

  [[nodiscard]] const std::vector<KvRows>& heads(std::int64_t layer) const;  ///< host copy, device addresses
  [[nodiscard]] KvView view(std::int64_t layer) const;
  [[nodiscard]] std::int64_t rows(std::int64_t layer, std::int64_t kv_head) const;
  [[nodiscard]] std::int64_t most_rows() const;  ///< of any layer and head
  /// Sequence indices of the rows, in slot order; waits for the device.
  [[nodiscard]] std::vector<std::int32_t> tokens(std::int64_t layer, std::int64_t kv_head) const;
  [[nodiscard]] std::int64_t bytes_used() const;  ///< rows x 2 x head_dim x element size, no padding
  [[nodiscard]] DType dtype() const { return context_.compute; }
  [[nodiscard]] const HeadShape& shape() const { return shape_; }
  [[nodiscard]] std::int64_t layers() const { return static_cast<std::int64_t>(layers_.size()); }

 private:
  struct Layer {
    Buffer memory;                       ///< keys, then values, of each head in turn
    std::vector<KvRows> heads;           ///< into `memory`
    std::vector<std::int64_t> capacity;  ///< [KV heads] rows
    std::vector<std::int64_t> prompt;    ///< [KV heads] rows that apply() kept; the others are appended ones
    Buffer slots;                        ///< [KV heads, slot_stride] of the prompt rows; empty: all of them
    std::int64_t slot_stride = 0;
    std::int32_t first = 0;  ///< sequence index of slot 0
  };
  [[nodiscard]] const Layer& at(std::int64_t layer) const { return layers_[static_cast<std::size_t>(layer)]; }
  [[nodiscard]] Layer& at(std::int64_t layer) { return layers_[static_cast<std::size_t>(layer)]; }
  [[nodiscard]] std::int64_t row_bytes() const;
  void place(Layer& layer, const std::vector<std::int64_t>& capacity);
  void move_rows(const std::vector<KvRows>& from, const std::vector<KvRows>& to, const KeepList* keep);

  Context context_;
  HeadShape shape_;
  ByteCounter counter_;
  std::vector<Layer> layers_;
  std::vector<std::int32_t> appended_;  ///< sequence indices, the same in every layer and head
};

}  // namespace purekv
