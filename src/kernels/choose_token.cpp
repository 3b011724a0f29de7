#include "kernels/choose_token.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "base/fail.h"
#include "kernels/cuda/choose_token.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

/// Of the top_k best (logit descending, id ascending on ties) the shortest prefix with top_p of their mass; within
/// it the id where the running mass passes the uniform number's share.
std::int32_t draw(const ChooseTokenParams& p, const std::vector<float>& logits, double uniform) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const std::size_t count = p.top_k > 0 ? std::min(static_cast<std::size_t>(p.top_k), order.size()) : order.size();
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
  const double best = logits[static_cast<std::size_t>(order.front())];
  std::vector<double> mass(count);
  for (std::size_t i = 0; i < count; ++i)
    mass[i] = std::exp((logits[static_cast<std::size_t>(order[i])] - best) / p.temperature);
  const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
  double kept = 0;
  std::size_t end = 0;
  while (end < count && (end == 0 || kept < p.top_p * total)) kept += mass[end++];
  double point = uniform * kept;
  for (std::size_t i = 0; i < end; ++i) {
    point -= mass[i];
    if (point < 0) return order[i];
  }
  return order[end - 1];
}

std::int32_t choose_one(const ChooseTokenParams& p, std::int64_t sequence) {
  const float* row = p.logits.row<float>(sequence);
  std::vector<float> logits(row, row + p.logits.cols);
  const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
  if (bad != logits.end()) return -1 - static_cast<std::int32_t>(bad - logits.begin());
  if (p.penalty != 1.0F && p.seen != nullptr) {
    const std::uint8_t* seen = p.seen + sequence * p.logits.cols;
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (seen[i] != 0) logits[i] = logits[i] > 0 ? logits[i] / p.penalty : logits[i] * p.penalty;
  }
  if (p.temperature > 0) return draw(p, logits, p.uniform[sequence]);
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

std::int64_t choose_token_work(std::int64_t sequences, std::int64_t vocab) {
  if constexpr (kHasCuda) return cuda::choose_token_work(sequences, vocab);
  return 0;
}

void choose_token(const Context& context, const ChooseTokenParams& params) {
  PUREKV_ASSERT(params.logits.dtype == DType::kF32 && params.logits.cols > 0);
  PUREKV_ASSERT(params.temperature <= 0 || params.uniform != nullptr);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::choose_token(context, params);
  for (std::int64_t sequence = 0; sequence < params.logits.rows; ++sequence) {
    const std::int32_t id = choose_one(params, sequence);
    params.ids[sequence] = id;
    if (id >= 0 && params.seen != nullptr) params.seen[sequence * params.logits.cols + id] = 1;
  }
}

}  // namespace purekv
