#pragma once

#include <cstdint>
#include <vector>

#include "device/context.h"
#include "flow/observation.h"
#include "purekv/options.h"

namespace purekv {

/// Arrays of one layer, [kv_heads][columns] float32 over the ranked rows [0, l - w); empty: not computed.
struct LayerScores {
  std::vector<float> window;            ///< eq. 2
  std::vector<float> vnorm;             ///< eq. 3's weight
  std::vector<float> local, self, nov;  ///< docs/method.md
  std::vector<float> score;             ///< what is ranked
};

/// What one layer's score needs.
struct ScoreRequest {
  CompressionOptions options;       ///< after effective_options()
  std::int64_t window = 0;          ///< w
  const float* borrowed = nullptr;  ///< C of layer c in place of this layer's own (eq. 4), or null
};

/// S of a layer: eq. 3 or 4 (own, clie) or the joined maxima of docs/method.md.
LayerScores score_layer(const Context& context, const Observation& observation, const ScoreRequest& request);

}  // namespace purekv
