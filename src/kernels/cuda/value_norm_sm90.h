#pragma once

#include <cstdint>

#include "base/shape.h"
#include "device/context.h"

/// Value norms for compute capability 9.0 (wgmma).
namespace purekv::cuda {

struct NormKernel;

/// Capability 9.0, and the triangles of a KV head's group fit into shared memory: groups up to 11 at head_dim 128.
bool value_norm_sm90_takes(const Context& context, const HeadShape& shape);

/// Of one head.
std::int64_t value_norm_sm90_triangle_bytes(const HeadShape& shape);

/// Packs Gram matrices [heads, d, d] into triangles and what each was multiplied by, inverted, into unscale [heads].
void value_norm_sm90_pack(const Context& context, const HeadShape& shape, const float* gram, void* triangles,
                          float* unscale);

void value_norm_sm90(const Context& context, const HeadShape& shape, const NormKernel& kernel);

}  // namespace purekv::cuda
