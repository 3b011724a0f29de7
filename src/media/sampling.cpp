#include "media/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr double kDefaultFps = 2.0;
constexpr std::int64_t kMinFrames = 4, kMaxFrames = 768;
// Beyond these a time stamp is no time any more: positions would overflow, or all fall together.
constexpr double kLowestRate = 1e-3, kHighestRate = 1e6;

std::int64_t floor_to(std::int64_t x, int factor) { return x / factor * factor; }
std::int64_t ceil_to(std::int64_t x, int factor) { return (x + factor - 1) / factor * factor; }

/// First and last frame of [--start, --end].
struct Range {
  std::int64_t first = 0, last = 0;
  [[nodiscard]] std::int64_t frames() const { return last - first + 1; }
};

Range range_of(const VideoSpan& video, const MediaOptions& options) {
  Range range{0, video.frames - 1};
  // Clamped to the clip's duration first, so that any number of seconds fits an integer.
  const double duration = static_cast<double>(video.frames) / video.rate;
  const auto frame_at = [&](double seconds) { return std::clamp(seconds, 0.0, duration) * video.rate; };
  if (options.start) range.first = static_cast<std::int64_t>(std::ceil(frame_at(*options.start)));
  if (options.end) range.last = std::min(range.last, static_cast<std::int64_t>(std::floor(frame_at(*options.end))));
  if (range.last <= range.first)
    fail(ErrorKind::kInput,
         "{}: --start {} --end {} leave frames {} to {} of {} ({:.2f} s); give a range with two frames or more",
         video.path, options.start.value_or(0), options.end.value_or(duration), range.first, range.last, video.frames,
         duration);
  return range;
}

std::int64_t frames_for_rate(const VideoSpan& video, std::int64_t total, const MediaOptions& options, int factor) {
  const double wanted = static_cast<double>(total) / video.rate * options.fps.value_or(kDefaultFps);
  const auto least = static_cast<double>(ceil_to(kMinFrames, factor));
  const auto most = static_cast<double>(floor_to(std::min(kMaxFrames, total), factor));
  const double count = std::min({std::max(wanted, least), most, static_cast<double>(total)});
  return floor_to(static_cast<std::int64_t>(std::floor(count)), factor);
}

std::int64_t frames_asked(std::int64_t asked, int factor) {
  const double groups = std::nearbyint(static_cast<double>(std::min(asked, kMostFrames + 2L * factor)) / factor);
  return static_cast<std::int64_t>(groups) * factor;
}

}  // namespace

std::vector<std::int64_t> linspace_indices(std::int64_t start, std::int64_t end, std::int64_t count) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
  const auto first = static_cast<float>(start);
  const auto last = static_cast<float>(end);
  const float step = (last - first) / static_cast<float>(count - 1);
  for (std::int64_t i = 0; i < count; ++i) {
    // Torch runs from both ends, and its x86 kernels are compiled with contraction: one rounding, not two,
    // decides which way a half goes. Without fma one clip in five gets another frame.
    const float x = i < count / 2 ? std::fma(step, static_cast<float>(i), first)
                                  : std::fma(-step, static_cast<float>(count - 1 - i), last);
    indices[static_cast<std::size_t>(i)] = static_cast<std::int64_t>(std::nearbyint(x));
  }
  return indices;
}

Sampling sample_video(const VideoSpan& video, const MediaOptions& options, int factor) {
  if (!(video.rate >= kLowestRate && video.rate <= kHighestRate))
    fail(ErrorKind::kInput, "{}: its average frame rate is {}; re-encode it with a rate from {} to {} frames a second",
         video.path, video.rate, kLowestRate, kHighestRate);
  if (options.fps && !(*options.fps > 0 && std::isfinite(*options.fps)))
    fail(ErrorKind::kInput, "{}: --fps {} is no rate; give a number above 0", video.path, *options.fps);
  if (video.frames < 2)
    fail(ErrorKind::kInput, "{}: {} frame(s) decoded, a video needs 2; give a longer clip or an image file", video.path,
         video.frames);
  const Range range = range_of(video, options);
  const std::int64_t total = range.frames();
  const std::int64_t count =
      options.frames ? frames_asked(*options.frames, factor) : frames_for_rate(video, total, options, factor);
  if (count < std::max(2, factor) || count > total)
    fail(ErrorKind::kInput, "{}: {} frames to sample of {}; give --frames from 2 to {}", video.path,
         options.frames.value_or(count), total, floor_to(total, factor));
  if (count > kMostFrames)
    fail(ErrorKind::kInput, "{}: {} frames to sample, at most {}; lower --frames", video.path, count, kMostFrames);
  return {linspace_indices(range.first, range.last, count),
          static_cast<double>(count) / static_cast<double>(total) * video.rate};
}

Sampling sample_all(const std::string& path, std::int64_t frames, const MediaOptions& options, int factor) {
  if (!(options.frame_rate >= kLowestRate && options.frame_rate <= kHighestRate))
    fail(ErrorKind::kInput, "{}: --frame-rate {} is out of range; give {} to {} frames a second", path,
         options.frame_rate, kLowestRate, kHighestRate);
  if (frames < 1) fail(ErrorKind::kInput, "{}: holds no frame; give one or more", path);
  if (frames > kMostFrames)
    fail(ErrorKind::kInput, "{}: holds {} frames, at most {} are possible; sample them first", path, frames,
         kMostFrames);
  Sampling sampling;
  sampling.sample_fps = options.frame_rate;
  const std::int64_t padded = ceil_to(frames, factor);
  for (std::int64_t i = 0; i < padded; ++i) sampling.indices.push_back(std::min(i, frames - 1));
  return sampling;
}

}  // namespace purekv
