#pragma once

#include <cuda_bf16.h>

#include "device/context.h"
#include "kernels/cuda/attention_sm90_tiles.h"

namespace purekv::cuda::sm90 {

/// Partial results of split tiles -> output rows.
struct MergeParams {
  const SplitRows* splits;
  std::int32_t split_count, kv_heads, group, head_dim;
  std::int32_t dims;     ///< floats of a partial row
  std::int32_t tokens;   ///< query rows of a warpgroup, whose packed rows begin at 64 w
  const float* partial;  ///< [slots][kv_heads][128][dims]
  const float2* sums;    ///< [slots][kv_heads][128] reference of the logits and sum
  __nv_bfloat16* out;
  std::int64_t out_stride;
  float* lse;
  std::int64_t lse_stride;
};

void merge_partials(const Context& context, const MergeParams& params);

}  // namespace purekv::cuda::sm90
