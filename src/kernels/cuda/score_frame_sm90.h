#pragma once

#include "kernels/cuda/frame_rows.h"
#include "kernels/score.h"

/// Frame scores for compute capability 9.0 (wgmma, TMA).
namespace purekv::cuda {

/// Whether score_frame_sm90 can run the call: capability 9.0, head_dim a multiple of eight up to 128, groups up to 128,
/// and heads at one constant stride. Looks at shapes only.
bool score_frame_sm90_takes(const Context& context, const FrameScoreParams& params);

/// `local` and `self` are zero before. Where all frames have up to 256 cells a kernel of its own runs,
/// score_frame_small_sm90.cu.
void score_frame_sm90(const Context& context, const FrameScoreParams& params, const FrameRows& frames);

}  // namespace purekv::cuda
