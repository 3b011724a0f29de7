#include <utility>

#include "media/npy_file.h"
#include "media/openers.h"
#include "media/resize.h"
#include "media/sampling.h"

namespace purekv {
namespace {

class NpyClip : public ClipSource {
 public:
  NpyClip(NpyFrames frames, ClipInfo info)
      : frames_(std::move(frames)), info_(std::move(info)), resizer_(frames_.size(), {info_.height, info_.width}) {}

  [[nodiscard]] const ClipInfo& info() const override { return info_; }

  bool next(std::vector<std::uint8_t>& rgb) override {
    if (next_ == info_.frame_indices.size()) return false;
    frames_.read(info_.frame_indices[next_++], frame_);
    rgb.resize(static_cast<std::size_t>(info_.height) * static_cast<std::size_t>(info_.width) * 3);
    resizer_.run(frame_.data(), rgb.data());
    return true;
  }

 private:
  NpyFrames frames_;
  ClipInfo info_;
  FrameResizer resizer_;
  std::vector<std::uint8_t> frame_;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<ClipSource> open_npy(InputFile file, const MediaOptions& options, const PreprocessConfig& preprocess) {
  NpyFrames frames(std::move(file));
  ClipInfo info;
  info.kind = MediaKind::kFrames;
  info.path = frames.path();
  Sampling sampling = sample_all(info.path, frames.frames(), options, preprocess.temporal_patch);
  info.frame_indices = std::move(sampling.indices);
  info.sample_fps = sampling.sample_fps;
  info.source_height = frames.size().height;
  info.source_width = frames.size().width;
  plan_sizes(info, options, preprocess);
  return std::make_unique<NpyClip>(std::move(frames), std::move(info));
}

}  // namespace purekv
