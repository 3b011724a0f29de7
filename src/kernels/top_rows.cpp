#include "kernels/top_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

void rank_head(const float* score, std::int64_t rows, std::int64_t count, std::int32_t* slots) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  const auto better = [score](std::int32_t a, std::int32_t b) {
    const float x = score[a];
    const float y = score[b];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  const auto cut = order.begin() + count;
  if (count < rows) std::nth_element(order.begin(), cut, order.end(), better);
  std::sort(order.begin(), cut);
  std::copy(order.begin(), cut, slots);
}

}  // namespace

void top_rows(const Context& context, const TopRowsParams& p) {
  PUREKV_ASSERT(p.count >= 0 && p.count <= p.rows && p.rows <= p.stride && p.count <= p.slot_stride);
  if (p.count == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::top_rows(context, p);
  parallel_for(context.threads, p.heads, [&](std::int64_t h) {
    rank_head(p.score + h * p.stride, p.rows, p.count, p.slots + h * p.slot_stride);
  });
}

}  // namespace purekv
