#include "media/clip_plan.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::int64_t kVideoMaxPixels = 768LL * 784;
// 128000 tokens of 28 x 28 pixels, nine tenths of them: 90,316,800.
constexpr std::int64_t kTotalPixels = 128'000LL * 784 / 10 * 9;
constexpr std::int64_t kMostResized = 1 << 25;
constexpr int kMaxRatio = 200;

PixelLimits given_limits(const std::string& path, const MediaOptions& options, std::int64_t low, std::int64_t high) {
  const PixelLimits limits{options.min_pixels.value_or(low), static_cast<double>(options.max_pixels.value_or(high))};
  if (static_cast<double>(limits.low) > limits.high)
    fail(ErrorKind::kInput, "{}: --min-pixels {} is above --max-pixels {}{}; raise one or lower the other", path,
         limits.low, limits.high, options.min_pixels && options.max_pixels ? "" : " (flag or the model's own limit)");
  return limits;
}

}  // namespace

void check_source_size(const std::string& path, std::int64_t height, std::int64_t width, int most_side) {
  if (height < 1 || width < 1) fail(ErrorKind::kInput, "{}: is {}x{} pixels; give a picture", path, width, height);
  if (height > most_side || width > most_side || height * width > kMostPixels)
    fail(ErrorKind::kInput, "{}: is {}x{} pixels, at most {} a side and {} in all are possible; scale it down", path,
         width, height, most_side, kMostPixels);
}

PixelLimits video_limits(const std::string& path, const MediaOptions& options, const PreprocessConfig& preprocess,
                         std::int64_t frames) {
  PixelLimits limits = given_limits(path, options, preprocess.video_min_pixels, preprocess.video_max_pixels);
  constexpr int kFrameFactor = 2;
  const auto total = static_cast<double>(options.total_pixels.value_or(kTotalPixels));
  const double share = total / static_cast<double>(frames) * kFrameFactor;
  // The floor wins over the total, as in the reference: the total is no hard cap.
  constexpr double kFloor = 1.05;
  const double floor = std::trunc(static_cast<double>(limits.low) * kFloor);
  limits.high = std::min(limits.high, std::max(std::min(static_cast<double>(kVideoMaxPixels), share), floor));
  return limits;
}

PixelLimits image_limits(const std::string& path, const MediaOptions& options, const PreprocessConfig& preprocess) {
  return given_limits(path, options, preprocess.image_min_pixels, preprocess.image_max_pixels);
}

FrameSize smart_resize(const std::string& path, FrameSize source, int factor, const PixelLimits& limits) {
  const double h = source.height;
  const double w = source.width;
  if (std::max(h, w) > kMaxRatio * std::min(h, w))
    fail(ErrorKind::kInput, "{}: is {}x{} pixels, an aspect ratio above {}; crop it", path, source.width, source.height,
         kMaxRatio);
  const double f = factor;
  double height = std::max(f, std::nearbyint(h / f) * f);
  double width = std::max(f, std::nearbyint(w / f) * f);
  if (height * width > limits.high) {
    const double beta = std::sqrt(h * w / limits.high);
    height = std::max(f, std::floor(h / beta / f) * f);
    width = std::max(f, std::floor(w / beta / f) * f);
  } else if (height * width < static_cast<double>(limits.low)) {
    const double beta = std::sqrt(static_cast<double>(limits.low) / (h * w));
    height = std::ceil(h * beta / f) * f;
    width = std::ceil(w * beta / f) * f;
  }
  if (height * width > static_cast<double>(kMostResized))
    fail(ErrorKind::kInput, "{}: would be resized to {:.0f}x{:.0f}, at most {} pixels are possible; lower --min-pixels",
         path, width, height, kMostResized);
  return {static_cast<int>(height), static_cast<int>(width)};
}

void plan_sizes(ClipInfo& clip, const MediaOptions& options, const PreprocessConfig& preprocess) {
  const auto frames = static_cast<std::int64_t>(clip.frame_indices.size());
  const PixelLimits limits = clip.kind == MediaKind::kImage ? image_limits(clip.path, options, preprocess)
                                                            : video_limits(clip.path, options, preprocess, frames);
  const FrameSize size =
      smart_resize(clip.path, {clip.source_height, clip.source_width}, preprocess.patch * preprocess.merge, limits);
  clip.height = size.height;
  clip.width = size.width;
  clip.grid_t = clip.kind == MediaKind::kImage ? 1 : static_cast<int>(frames / preprocess.temporal_patch);
  clip.grid_h = size.height / preprocess.patch;
  clip.grid_w = size.width / preprocess.patch;
}

}  // namespace purekv
