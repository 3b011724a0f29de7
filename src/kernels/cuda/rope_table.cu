#include "kernels/rope_table.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;

/// One thread an angle; the accurate cosf and sinf, because positions reach 10^5 radians.
__global__ void rope_table_kernel(RopeTableParams p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.rows * p.half) return;
  const std::int64_t r = i / p.half;
  const std::int64_t j = i % p.half;
  const float angle = static_cast<float>(p.positions[p.axis[j] * p.rows + r]) * p.frequency[j];
  p.cos[i] = cosf(angle);
  p.sin[i] = sinf(angle);
}

}  // namespace

void rope_table(const Context& context, const RopeTableParams& p) {
  if (p.rows * p.half == 0) return;
  const auto blocks = static_cast<unsigned>(ceil_div(p.rows * p.half, kThreads));
  rope_table_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(p);
  check_launch("making a RoPE table");
}

}  // namespace purekv::cuda
