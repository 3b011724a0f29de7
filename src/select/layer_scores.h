#pragma once

#include <cstdint>

#include "device/buffer.h"
#include "device/context.h"
#include "flow/observation.h"
#include "purekv/options.h"

namespace purekv {

/// One array of a layer's scores, device memory: [kv_heads, stride] float32, its first l - w columns are ranked.
/// Taken at its first use and filled anew in every layer.
struct ScoreArray {
  Buffer memory;
  std::int64_t stride = 0;
  [[nodiscard]] const float* data() const { return memory.as<float>(); }
  [[nodiscard]] bool empty() const { return memory.data() == nullptr; }
  /// The memory, taken where there is none yet.
  float* take(const Context& context, std::int64_t kv_heads, std::int64_t columns);
};

/// Arrays of one layer; empty: not computed.
struct LayerScores {
  ScoreArray window;            ///< eq. 2
  ScoreArray vnorm;             ///< eq. 3's weight
  ScoreArray local, self, nov;  ///< docs/method.md
  ScoreArray score;             ///< what is ranked
};

/// What one layer's score needs.
struct ScoreRequest {
  CompressionOptions options;            ///< after effective_options()
  std::int64_t window = 0;               ///< w
  const std::uint8_t* kind = nullptr;    ///< [l - w] device, JoinScoresParams::kind
  const ScoreArray* borrowed = nullptr;  ///< C of layer c in place of this layer's own (eq. 4), or null
};

/// S of a layer: eq. 3 or 4 (own, clie) or the joined maxima of docs/method.md. Nothing waits for the device.
void score_layer(const Context& context, const Observation& observation, const ScoreRequest& request,
                 LayerScores& scores);

}  // namespace purekv
