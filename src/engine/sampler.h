#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>

#include "base/matrix.h"
#include "device/buffer.h"
#include "device/context.h"
#include "model/config.h"
#include "purekv/options.h"

namespace purekv {

/// Chooses the next token of one sequence from raw logits, where the logits are: repetition penalty over prompt and
/// output ids, then greedy (lowest id of equals) or temperature, top-k, top-p and a seeded draw.
class Sampler {
 public:
  /// Flags win over generation_config.json. Greedy unless the flag's temperature is above 0, or
  /// the file samples with a temperature above 1e-3.
  /// `place` names the model in errors.
  Sampler(const Context& context, std::int64_t vocab, const GenerationOptions& options,
          const GenerationDefaults& defaults, std::string place = "the model");

  /// The options with every default filled in; temperature 0 is greedy.
  [[nodiscard]] GenerationOptions effective(const GenerationOptions& given) const;

  /// Ids that the penalty looks at before the first choice; chosen ones join by themselves.
  void observe(std::span<const std::int32_t> ids);
  /// Draws the random number of the next choice; before each, outside a captured step.
  void draw();
  /// Queues the choice from logits [1, vocab] into ids [1], both device memory.
  void choose(const ConstMatrixView& logits, std::int32_t* ids) const;
  /// The chosen id; waits for it. Throws Error(kInput) where a logit was not finite.
  [[nodiscard]] std::int32_t read(const std::int32_t* ids) const;

 private:
  Context context_;
  std::string place_;
  bool greedy_;
  double temperature_, top_p_, penalty_;
  std::int64_t top_k_;
  std::mt19937_64 random_;
  Buffer seen_;     ///< [vocab] bytes, where a penalty is asked
  Buffer uniform_;  ///< [1] double, where it samples
  Buffer work_;
};

}  // namespace purekv
