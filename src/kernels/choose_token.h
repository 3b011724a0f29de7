#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// The next token of several sequences from raw logits (engine/sampler.h is the rule).
struct ChooseTokenParams {
  ConstMatrixView logits;  ///< [sequences, vocab] float32
  std::uint8_t* seen =
      nullptr;            ///< [sequences, vocab] 1: the penalty acts on it; the chosen ids are marked. Null: no penalty
  float penalty = 1;      ///< repetition penalty: > 0 divided, others multiplied
  float temperature = 0;  ///< 0: greedy, the lowest id of equals
  float top_p = 1;
  std::int64_t top_k = 0;           ///< 0: off
  const double* uniform = nullptr;  ///< [sequences] in [0, 1), one draw each; null where greedy
  std::int32_t* ids = nullptr;      ///< [sequences]; -1 - i where logit i is not finite
  MatrixView work;                  ///< float32, choose_token_work() elements
};

std::int64_t choose_token_work(std::int64_t sequences, std::int64_t vocab);
void choose_token(const Context& context, const ChooseTokenParams& params);

}  // namespace purekv
