#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/fail.h"

namespace purekv {
namespace {

/// Below this a file's temperature means greedy: released checkpoints say 1e-6 for it.
constexpr double kGreedyTemperature = 1e-3;

/// Uniform in [0, 1) from 53 bits; std::uniform_real_distribution differs between libraries.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

}  // namespace

Sampler::Sampler(const GenerationOptions& options, const GenerationDefaults& defaults, std::string place)
    : place_(std::move(place)),
      temperature_(options.temperature.value_or(defaults.temperature)),
      top_p_(options.top_p.value_or(defaults.top_p)),
      penalty_(options.repetition_penalty.value_or(defaults.repetition_penalty)),
      top_k_(options.top_k.value_or(defaults.top_k)),
      random_(options.seed) {
  const bool file_samples = defaults.do_sample && defaults.temperature > kGreedyTemperature;
  greedy_ = options.temperature ? *options.temperature <= 0 : !file_samples;
}

GenerationOptions Sampler::effective(const GenerationOptions& given) const {
  GenerationOptions options = given;
  options.temperature = greedy_ ? 0.0 : temperature_;
  options.top_p = top_p_;
  options.top_k = top_k_;
  options.repetition_penalty = penalty_;
  return options;
}

void Sampler::observe(std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= seen_.size()) seen_.resize(at + 1);
    seen_[at] = true;
  }
}

std::int32_t Sampler::next(std::span<const float> logits) {
  scratch_.assign(logits.begin(), logits.end());
  for (std::size_t i = 0; i < scratch_.size(); ++i)
    if (!std::isfinite(scratch_[i]))
      fail(ErrorKind::kInput,
           "{}: the logit of token {} is {}; the weights hold values that are not finite, use another copy", place_, i,
           scratch_[i]);
  if (penalty_ != 1.0) {
    const auto penalty = static_cast<float>(penalty_);
    for (std::size_t i = 0; i < std::min(seen_.size(), scratch_.size()); ++i)
      if (seen_[i]) scratch_[i] = scratch_[i] > 0 ? scratch_[i] / penalty : scratch_[i] * penalty;
  }
  if (greedy_) return static_cast<std::int32_t>(std::max_element(scratch_.begin(), scratch_.end()) - scratch_.begin());
  return draw();
}

std::int32_t Sampler::draw() {
  std::vector<std::int32_t> order(scratch_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto count = top_k_ > 0 ? std::min<std::size_t>(static_cast<std::size_t>(top_k_), order.size()) : order.size();
  const auto better = [this](std::int32_t a, std::int32_t b) {
    const float x = scratch_[static_cast<std::size_t>(a)];
    const float y = scratch_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
  const double best = scratch_[static_cast<std::size_t>(order.front())];
  std::vector<double> mass(count);
  for (std::size_t i = 0; i < count; ++i)
    mass[i] = std::exp((scratch_[static_cast<std::size_t>(order[i])] - best) / temperature_);
  const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
  double kept = 0;
  std::size_t end = 0;
  while (end < count && (end == 0 || kept < top_p_ * total)) kept += mass[end++];
  double point = uniform(random_) * kept;
  for (std::size_t i = 0; i < end; ++i) {
    point -= mass[i];
    if (point < 0) return order[i];
  }
  return order[end - 1];
}

}  // namespace purekv
