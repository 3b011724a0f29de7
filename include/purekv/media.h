#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace purekv {

/// What a checkpoint's preprocessor files say (docs/model.md). The engine fills it at load.
struct PreprocessConfig {
  int patch = 14;          ///< pixels a side
  int merge = 2;           ///< patches a side that become one token
  int temporal_patch = 2;  ///< frames that become one token-frame
  std::int64_t image_min_pixels = 4LL * 784;
  std::int64_t image_max_pixels = 16384LL * 784;
  std::int64_t video_min_pixels = 128LL * 784;
  std::int64_t video_max_pixels = 768LL * 784;
  std::array<float, 3> mean = {0.48145466F, 0.4578275F, 0.40821073F};
  std::array<float, 3> std = {0.26862954F, 0.26130258F, 0.27577711F};
  float rescale = 1.0F / 255.0F;
};

/// The media flags of `purekv ask`; unset means the rule of docs/model.md.
struct MediaOptions {
  std::optional<double> fps;           ///< target rate; excludes `frames`
  std::optional<std::int64_t> frames;  ///< exact count, rounded to even
  double frame_rate = 2.0;             ///< rate of folders and .npy files
  std::optional<std::int64_t> min_pixels, max_pixels, total_pixels;
  std::optional<double> start, end;  ///< seconds, videos only
};

enum class MediaKind { kVideo, kImage, kFrames };

/// What a medium becomes, known before a pixel is resized.
struct ClipInfo {
  MediaKind kind = MediaKind::kVideo;
  std::string path;
  std::vector<std::int64_t> frame_indices;  ///< decoded-frame numbers in display order, padded even
  double sample_fps = 0;                    ///< 0 for an image
  int source_height = 0, source_width = 0;  ///< pixels, rotation applied
  int height = 0, width = 0;                ///< pixels fed to the tower
  int grid_t = 0, grid_h = 0, grid_w = 0;   ///< patches
};

/// One planned medium. Frames come one at a time, resized; a clip is never whole in memory.
class ClipSource {
 public:
  virtual ~ClipSource() = default;
  [[nodiscard]] virtual const ClipInfo& info() const = 0;
  /// Writes the next sampled frame, uint8 RGB [height, width, 3], into `rgb` (resized to fit).
  /// Returns false after the last of `info().frame_indices` (an image yields one frame).
  /// Throws Error(kInput) where decoding fails.
  virtual bool next(std::vector<std::uint8_t>& rgb) = 0;
};

/// Opens a video file, an image file, a folder of images or a `.npy` file (uint8 [T,H,W,3]) and
/// plans it. Throws Error(kInput) naming the file, what was found and the remedy.
std::unique_ptr<ClipSource> open_media(const std::string& path, const MediaOptions& options,
                                       const PreprocessConfig& preprocess);

}  // namespace purekv
