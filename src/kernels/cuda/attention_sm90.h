#pragma once

#include "kernels/attention.h"

/// Prefill attention for compute capability 9.0 (wgmma, TMA).
namespace purekv::cuda {

/// Whether attention_sm90 can run the call: capability 9.0, bf16, no cached rows, steps of one, head_dim a multiple of
/// eight up to 128, groups up to 16, and fresh heads at one constant stride. Looks at shapes only.
bool attention_sm90_takes(const Context& context, const AttentionParams& params);

/// 4 * pairs * head_dim FLOPs a head on the tensor cores; K and V are read from L2 once a tile of 128 packed rows.
/// Takes a stream-ordered buffer for partial results where a tile has far more keys than the rest.
void attention_sm90(const Context& context, const AttentionParams& params);

}  // namespace purekv::cuda
