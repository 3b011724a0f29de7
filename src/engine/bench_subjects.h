#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/matrix.h"
#include "device/context.h"
#include "flow/frame_table.h"
#include "model/config.h"
#include "purekv/bench.h"

namespace purekv {

/// A benchmark's prompt and model as the engine's own types.
struct Shaped {
  FrameTable table;
  ModelConfig config;
};

/// What a run is: work to repeat, and what it counts as.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void run() = 0;
  double flops = 0, bytes = 0;
  bool bound_by_bytes = false;
  KvReport kv;
};

std::unique_ptr<Subject> make_attention_subject(const Context& context, const BenchRequest& request,
                                                const Shaped& shaped);
std::unique_ptr<Subject> make_vision_subject(const Context& context, const BenchRequest& request, const Shaped& shaped);
std::unique_ptr<Subject> make_prefill_subject(const Context& context, const BenchRequest& request,
                                              const Shaped& shaped);
std::unique_ptr<Subject> make_decode_subject(const Context& context, const BenchRequest& request, const Shaped& shaped);

/// A cell count as the most square grid whose sides multiply to it: {height, width}.
std::pair<std::int32_t, std::int32_t> near_square(std::int64_t cells);
/// Rows that the request's compression leaves of a prompt, a layer and KV head.
std::int64_t kept_rows(const BenchRequest& request, const FrameTable& table);

inline DType weight_type(const BenchRequest& request) {
  switch (request.weights) {
    case WeightType::kF32:
      return DType::kF32;
    case WeightType::kBf16:
      return DType::kBF16;
    case WeightType::kFp8:
      return DType::kFp8;
  }
  return DType::kF32;
}

}  // namespace purekv
