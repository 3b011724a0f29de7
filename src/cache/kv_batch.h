#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "device/buffer.h"
#include "device/context.h"
#include "flow/kv_view.h"

namespace purekv {

/// Where the rows of several sequences lie, as one decode step of all of them reads it: a table
/// [layer][sequence][kv_head] in device memory whose address stays, so that a captured step may name it.
class KvBatch {
 public:
  /// The caches have one shape, the same layers, and outlive the batch.
  KvBatch(const Context& context, std::vector<KvCache*> caches);

  /// Before a step: room for one more row everywhere; the table follows what moved (one upload, mostly none).
  void prepare();
  /// After a step's decode_end has raised every count of the table: `tokens` [sequences] are the new rows' sequence
  /// indices.
  void appended(std::span<const std::int32_t> tokens);

  [[nodiscard]] const KvRows* table(std::int64_t layer) const;           ///< device, [sequences, kv_heads]
  [[nodiscard]] KvRows* entries() const { return table_.as<KvRows>(); }  ///< the whole table, for decode_end
  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(mirror_.size()); }
  [[nodiscard]] std::int64_t sequences() const { return static_cast<std::int64_t>(caches_.size()); }
  [[nodiscard]] std::int64_t most_rows() const;  ///< of any layer, sequence and head
  [[nodiscard]] DType dtype() const { return caches_.front()->dtype(); }

 private:
  Context context_;
  std::vector<KvCache*> caches_;
  std::vector<KvRows> mirror_;  ///< what the device's table holds
  Buffer table_;
};

}  // namespace purekv
