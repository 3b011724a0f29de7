#include "kernels/rope_table.h"

#include <cmath>

#include "kernels/cpu/rows_parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {

void rope_table(const Context& context, const RopeTableParams& p) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::rope_table(context, p);
  constexpr std::int64_t kCost = 32;  // a sine and a cosine, in plain values
  for_rows(context.threads, p.rows, kCost * p.half, [&](std::int64_t r) {
    for (std::int64_t j = 0; j < p.half; ++j) {
      const float angle = static_cast<float>(p.positions[p.axis[j] * p.rows + r]) * p.frequency[j];
      p.cos[r * p.half + j] = std::cos(angle);
      p.sin[r * p.half + j] = std::sin(angle);
    }
  });
}

}  // namespace purekv
