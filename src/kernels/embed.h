#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// out[i] = table[ids[i]] in the type of out.
struct EmbedParams {
  ConstMatrixView table;              ///< [vocab, hidden] f32, bf16 or f16, as the file holds it
  const std::int32_t* ids = nullptr;  ///< [rows of out], each in [0, vocab)
  MatrixView out;                     ///< [rows, hidden] float32, or context.activation()
};

/// Rows of the embedding table. Reads each named row once; the caller has checked the ids against the vocabulary
/// (Error(kInternal) otherwise).
void embed(const Context& context, const EmbedParams& params);

}  // namespace purekv
