#pragma once

#include "kernels/attention.h"

namespace purekv::cuda {

/// Attention by mma.sync, on every GPU from sm_80 on: bf16 q, out, keys and values, any even head_dim up to 256, any
/// group up to 128. Twin and fallback of the Hopper kernel.
void attention_sm80(const Context& context, const AttentionParams& params);

}  // namespace purekv::cuda
