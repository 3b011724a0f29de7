#pragma once

#include <cstdint>
#include <string>

#include "purekv/media.h"

namespace purekv {

/// Pixels.
struct FrameSize {
  int height = 0, width = 0;
  bool operator==(const FrameSize&) const = default;
};

// Of a picture as its file holds it; for videos also a side of at most 4,096 (docs/media.md).
constexpr std::int64_t kMostPixels = 16'800'000;
constexpr int kMostSide = 16'384, kMostVideoSide = 4'096;

/// Pixels a frame. The upper one may be a fraction: a share of all frames' total.
struct PixelLimits {
  std::int64_t low = 0;
  double high = 0;
};

/// Throws Error(kInput) for a side below 1 or above `most_side`, or too many pixels: called before a picture is
/// decoded.
void check_source_size(const std::string& path, std::int64_t height, std::int64_t width, int most_side);

/// The flags, else the model's, else the constants; a video's frames also share `total_pixels`.
PixelLimits video_limits(const std::string& path, const MediaOptions& options, const PreprocessConfig& preprocess,
                         std::int64_t frames);
PixelLimits image_limits(const std::string& path, const MediaOptions& options, const PreprocessConfig& preprocess);

/// The nearest multiples of `factor` that keep the aspect about and fall within the limits (docs/model.md).
/// Throws Error(kInput) where one side is over 200 times the other.
FrameSize smart_resize(const std::string& path, FrameSize source, int factor, const PixelLimits& limits);

/// Fills sizes and grid of a clip whose kind, path, indices and source size are known.
void plan_sizes(ClipInfo& clip, const MediaOptions& options, const PreprocessConfig& preprocess);

}  // namespace purekv
