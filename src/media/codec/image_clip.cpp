#include <utility>

#include "media/codec/image_decoder.h"
#include "media/openers.h"
#include "media/resize.h"

namespace purekv {
namespace {

class ImageClip : public ClipSource {
 public:
  ImageClip(Picture picture, ClipInfo info) : picture_(std::move(picture)), info_(std::move(info)) {}

  [[nodiscard]] const ClipInfo& info() const override { return info_; }

  bool next(std::vector<std::uint8_t>& rgb) override {
    if (picture_.rgb.empty()) return false;
    resize_image(picture_.size, picture_.rgb, {info_.height, info_.width}, rgb);
    picture_ = {};
    return true;
  }

 private:
  Picture picture_;
  ClipInfo info_;
};

}  // namespace

std::unique_ptr<ClipSource> open_image(InputFile file, const MediaOptions& options,
                                       const PreprocessConfig& preprocess) {
  Picture picture = decode_picture(read_image_file(file));
  ClipInfo info;
  info.kind = MediaKind::kImage;
  info.path = file.path();
  info.frame_indices = {0};
  info.source_height = picture.size.height;
  info.source_width = picture.size.width;
  plan_sizes(info, options, preprocess);
  return std::make_unique<ImageClip>(std::move(picture), std::move(info));
}

}  // namespace purekv
