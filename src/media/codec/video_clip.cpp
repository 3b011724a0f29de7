#include <memory>
#include <utility>

#include "base/fail.h"
#include "media/codec/container_check.h"
#include "media/codec/frame_converter.h"
#include "media/codec/video_file.h"
#include "media/openers.h"
#include "media/resize.h"
#include "media/sampling.h"

namespace purekv {
namespace {

/// Two passes over the file: the first counts, which the indices depend on; the second looks.
class VideoClip : public ClipSource {
 public:
  VideoClip(InputFile file, ClipInfo info) : file_(std::move(file)), info_(std::move(info)) {}

  [[nodiscard]] const ClipInfo& info() const override { return info_; }

  bool next(std::vector<std::uint8_t>& rgb) override {
    if (next_ == info_.frame_indices.size()) return false;
    const std::int64_t wanted = info_.frame_indices[next_];
    if (next_ == 0) video_ = std::make_unique<VideoFile>(file_, Pass::kPixels);
    while (decoded_ <= wanted) {
      if (!video_->next())
        fail(ErrorKind::kInput, "{}: ends before frame {}; the file changed while it was read, keep it still",
             info_.path, wanted);
      ++decoded_;
    }
    convert(rgb);
    if (++next_ == info_.frame_indices.size()) video_.reset();
    return true;
  }

 private:
  void convert(std::vector<std::uint8_t>& rgb) {
    const AVFrame& frame = video_->frame();
    if (!converter_.run(frame, frame_))
      fail(ErrorKind::kInput, "{}: pixel format {} cannot become RGB; re-encode it as yuv420p", info_.path,
           frame.format);
    const FrameSize stored{frame.height, frame.width};
    orient(stored, video_->orientation(), frame_);
    const FrameSize shown = oriented(stored, video_->orientation());
    // A stream may change size on its way; the plan's size stays.
    if (!resizer_ || resizer_->in() != shown)
      resizer_ = std::make_unique<FrameResizer>(shown, FrameSize{info_.height, info_.width});
    rgb.resize(static_cast<std::size_t>(info_.height) * static_cast<std::size_t>(info_.width) * 3);
    resizer_->run(frame_.data(), rgb.data());
  }

  InputFile file_;
  ClipInfo info_;
  std::unique_ptr<VideoFile> video_;
  FrameConverter converter_;
  std::unique_ptr<FrameResizer> resizer_;
  std::vector<std::uint8_t> frame_;
  std::int64_t decoded_ = 0;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<ClipSource> open_video(InputFile file, const MediaOptions& options,
                                       const PreprocessConfig& preprocess) {
  check_container(file);
  ClipInfo info;
  info.kind = MediaKind::kVideo;
  info.path = file.path();
  VideoSpan span{file.path(), 0, 0};
  {
    VideoFile video(file, Pass::kCount);
    span.rate = video.rate();
    while (video.next()) {
      if (span.frames++ > 0) continue;
      const FrameSize shown = oriented({video.frame().height, video.frame().width}, video.orientation());
      info.source_height = shown.height;
      info.source_width = shown.width;
    }
  }
  Sampling sampling = sample_video(span, options, preprocess.temporal_patch);
  info.frame_indices = std::move(sampling.indices);
  info.sample_fps = sampling.sample_fps;
  plan_sizes(info, options, preprocess);
  return std::make_unique<VideoClip>(std::move(file), std::move(info));
}

}  // namespace purekv
