#include "kernels/decode_begin.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/fail.h"
#include "kernels/cuda/ops.h"
#include "kernels/embed.h"

namespace purekv {

void decode_begin(const Context& context, const DecodeBeginParams& params) {
  const DecodeBeginParams& p = params;
  PUREKV_ASSERT(p.hidden.dtype == DType::kF32 && p.hidden.cols == p.table.cols && p.half > 0);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::decode_begin(context, p);
  std::vector<std::int32_t> ids(p.ids, p.ids + p.hidden.rows);
  for (std::int32_t& id : ids) id = std::max(id, 0);
  embed(context, {.table = p.table, .ids = ids.data(), .out = p.hidden});
  for (std::int64_t s = 0; s < p.hidden.rows; ++s)
    for (std::int64_t j = 0; j < p.half; ++j) {
      const float angle = static_cast<float>(p.positions[s]) * p.inverse_frequency[j];
      p.cos[s * p.half + j] = std::cos(angle);
      p.sin[s * p.half + j] = std::sin(angle);
    }
}

void decode_end(const Context& context, const DecodeEndParams& params) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::decode_end(context, params);
  for (std::int64_t i = 0; i < params.count; ++i) ++params.rows[i].rows;
  for (std::int64_t i = 0; i < params.sequences; ++i) ++params.positions[i];
}

}  // namespace purekv
