#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "purekv/media.h"

namespace purekv {

/// Frames kept of one clip, at most: far above any model's context, so that a bad number cannot take memory.
constexpr std::int64_t kMostFrames = 1 << 20;

/// A video before sampling.
struct VideoSpan {
  std::string path;         ///< for errors
  std::int64_t frames = 0;  ///< that the decoder outputs
  double rate = 0;          ///< frames a second
};

/// Which frames are looked at.
struct Sampling {
  std::vector<std::int64_t> indices;
  double sample_fps = 0;
};

/// torch.linspace(start, end, count) in float32 on the CPU, rounded half to even; count >= 2.
std::vector<std::int64_t> linspace_indices(std::int64_t start, std::int64_t end, std::int64_t count);

/// The reference's rule (docs/model.md) for --fps, --frames, --start and --end; counts are multiples of `factor`.
/// Throws Error(kInput) where the rule yields no clip.
Sampling sample_video(const VideoSpan& video, const MediaOptions& options, int factor);

/// All of `frames` frames, the last one repeated up to a multiple of `factor`.
Sampling sample_all(const std::string& path, std::int64_t frames, const MediaOptions& options, int factor);

}  // namespace purekv
