#pragma once

#include <cstdint>

#include "base/shape.h"
#include "device/context.h"

/// Window scores for compute capability 9.0 (wgmma).
namespace purekv::cuda {

struct WindowKernel;

/// Window rows of a head are padded to this.
inline constexpr std::int64_t kWindowTileRows = 64;

/// Capability 9.0, and a KV head's padded window rows fit into shared memory: 13 heads of 64 rows at head_dim 128.
bool score_window_sm90_takes(const Context& context, const HeadShape& shape, std::int64_t window);

/// The last step of score_window.cu. `known` [heads, keys] are the log-sum-exps that the caller knows, and become
/// WindowKernel::lse here; null: lse is there.
void score_window_sm90(const Context& context, const HeadShape& shape, const WindowKernel& kernel, const float* known,
                       bool row_max);

}  // namespace purekv::cuda
