#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "model/config.h"
#include "purekv/options.h"

namespace purekv {

/// Chooses the next token from raw logits: repetition penalty over prompt and output ids, then
/// greedy (lowest id of equals) or temperature, top-k, top-p and a seeded draw.
class Sampler {
 public:
  /// Flags win over generation_config.json. Greedy unless the flag's temperature is above 0, or
  /// the file samples with a temperature above 1e-3.
  /// `place` names the model in errors.
  Sampler(const GenerationOptions& options, const GenerationDefaults& defaults, std::string place = "the model");

  /// The options with every default filled in; temperature 0 is greedy.
  [[nodiscard]] GenerationOptions effective(const GenerationOptions& given) const;

  /// Ids that the penalty looks at: the prompt first, then every token as it comes.
  void observe(std::span<const std::int32_t> ids);
  /// Throws Error(kInput) where a logit is not finite.
  std::int32_t next(std::span<const float> logits);

 private:
  std::int32_t draw();

  std::string place_;
  bool greedy_;
  double temperature_, top_p_, penalty_;
  std::int64_t top_k_;
  std::mt19937_64 random_;
  std::vector<bool> seen_;
  std::vector<float> scratch_;
};

}  // namespace purekv
