#pragma once

#include <cstdint>
#include <span>
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
/// position they were written with.
class KvCache {
 public:
  KvCache(const Context& context, const HeadShape& shape, std::int64_t layers);
  KvCache(const KvCache&) = delete;  // buffers point at the counter
  KvCache& operator=(const KvCache&) = delete;

  [[nodiscard]] ByteCounter* counter();
  /// Takes a layer's scratch: the kept rows only (nullptr: all). The scratch is freed. `first` is
  /// the sequence index of scratch row 0.
  void apply(std::int64_t layer, LayerScratch scratch, const CompactionPlan* plan, std::int32_t first = 0);
  /// Room for one more row a head in `layer` (grows by at most 32 rows) and its address:
  /// writes go to keys/values [kv_heads] row pointers. Commits the row with sequence index `token`.
  struct AppendSlot {
    std::vector<void*> k, v;  ///< [kv_heads], head_dim elements each
  };
  AppendSlot append(std::int64_t layer, std::int32_t token);

  [[nodiscard]] KvView view(std::int64_t layer) const;
  [[nodiscard]] std::int64_t rows(std::int64_t layer, std::int64_t kv_head) const;
  [[nodiscard]] std::span<const std::int32_t> tokens(std::int64_t layer, std::int64_t kv_head) const;
  [[nodiscard]] std::int64_t bytes_used() const;  ///< rows x 2 x head_dim x element size, no padding
  [[nodiscard]] DType dtype() const;

 private:
  struct Head {
    Buffer k, v;
    std::int64_t rows = 0, capacity = 0;
    std::vector<std::int32_t> tokens;
  };
  void grow(Head& head);

  Context context_;
  HeadShape shape_;
  ByteCounter counter_;
  std::vector<std::vector<Head>> layers_;
};

}  // namespace purekv
