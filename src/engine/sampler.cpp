#include "engine/sampler.h"

#include <utility>
#include <vector>

#include "base/fail.h"
#include "device/transfer.h"
#include "kernels/choose_token.h"

namespace purekv {
namespace {

/// Below this a file's temperature means greedy: released checkpoints say 1e-6 for it.
constexpr double kGreedyTemperature = 1e-3;

/// Uniform in [0, 1) from 53 bits; std::uniform_real_distribution differs between libraries.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

}  // namespace

Sampler::Sampler(const Context& context, std::int64_t vocab, const GenerationOptions& options,
                 const GenerationDefaults& defaults, std::string place)
    : context_(context),
      place_(std::move(place)),
      temperature_(options.temperature.value_or(defaults.temperature)),
      top_p_(options.top_p.value_or(defaults.top_p)),
      penalty_(options.repetition_penalty.value_or(defaults.repetition_penalty)),
      top_k_(options.top_k.value_or(defaults.top_k)),
      random_(options.seed) {
  const bool file_samples = defaults.do_sample && defaults.temperature > kGreedyTemperature;
  greedy_ = options.temperature ? *options.temperature <= 0 : !file_samples;
  if (penalty_ != 1.0) seen_ = to_device(context, std::vector<std::uint8_t>(static_cast<std::size_t>(vocab), 0));
  if (!greedy_) uniform_ = Buffer(context, sizeof(double));
  work_ = Buffer(context, choose_token_work(1, vocab) * static_cast<std::int64_t>(sizeof(float)));
  fill_zero(context, work_.data(), work_.bytes());
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
  if (seen_.bytes() == 0) return;
  auto seen = to_host<std::uint8_t>(context_, seen_.data(), seen_.bytes());
  for (const std::int32_t id : ids)
    if (id >= 0 && static_cast<std::size_t>(id) < seen.size()) seen[static_cast<std::size_t>(id)] = 1;
  upload(context_, seen_.data(), seen.data(), seen_.bytes());
}

void Sampler::draw() {
  if (greedy_) return;
  const double value = uniform(random_);
  upload(context_, uniform_.data(), &value, sizeof value);
}

void Sampler::choose(const ConstMatrixView& logits, std::int32_t* ids) const {
  const std::int64_t floats = work_.bytes() / static_cast<std::int64_t>(sizeof(float));
  choose_token(context_, {.logits = logits,
                          .seen = seen_.as<std::uint8_t>(),
                          .penalty = static_cast<float>(penalty_),
                          .temperature = greedy_ ? 0.0F : static_cast<float>(temperature_),
                          .top_p = static_cast<float>(top_p_),
                          .top_k = top_k_,
                          .uniform = uniform_.as<double>(),
                          .ids = ids,
                          .work = {work_.data(), DType::kF32, 1, floats, floats}});
}

std::int32_t Sampler::read(const std::int32_t* ids) const {
  std::int32_t id = 0;
  download(context_, &id, ids, sizeof id);
  if (id < 0)
    fail(ErrorKind::kInput,
         "{}: the logit of token {} is not finite; the weights hold values that are not finite, use another copy",
         place_, -1 - id);
  return id;
}

}  // namespace purekv
