#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "device/context.h"
#include "flow/keep_list.h"
#include "flow/observation.h"
#include "purekv/options.h"
#include "select/budget.h"

namespace purekv {

/// Arrays of one layer for `--trace` (docs/interfaces.md): name without layer and suffix
/// ("window", "vnorm", "local", "self", "nov", "score"), [kv_heads, columns] in host memory. Only a sink makes the
/// selector wait for the device.
using ScoreSink = std::function<void(std::string_view name, std::int64_t layer, const float* data,
                                     std::int64_t kv_heads, std::int64_t columns)>;

/// A method over the layers of one prompt: observation -> scores -> keep list. Holds what CLIE
/// carries from layer c upwards, and the working memory of all layers.
class Selector {
 public:
  Selector(const Context& context, const CompressionOptions& options, const FrameTable& table, ScoreSink sink = {});
  ~Selector();
  [[nodiscard]] const ResolvedBudget& budget() const;
  /// Whether observations must carry the log-sum-exp.
  [[nodiscard]] bool needs_lse() const;
  /// Nothing where every row stays. The list is the selector's memory until it selects again.
  std::optional<KeepList> select(const Observation& observation);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace purekv
