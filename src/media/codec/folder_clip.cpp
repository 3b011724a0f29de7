#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/fail.h"
#include "media/codec/image_decoder.h"
#include "media/file_kind.h"
#include "media/openers.h"
#include "media/resize.h"
#include "media/sampling.h"

namespace purekv {
namespace {

namespace fs = std::filesystem;

/// By content, not by name: what is no image is skipped.
bool holds_image(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error) || fs::file_size(path, error) == 0) return false;
  return is_image(file_kind(InputFile(path.string()).head(kHeadBytes)));
}

/// Names of the frames, sorted by their bytes.
std::vector<std::string> list_frames(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (!holds_image(entry->path())) continue;
    names.push_back(entry->path().filename().string());
    if (static_cast<std::int64_t>(names.size()) > kMostFrames) break;  // refused by its count
  }
  if (error) fail(ErrorKind::kInput, "{}: {}; give a folder that can be read", folder, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

/// Frames are read one at a time; a folder is never in memory.
class FolderClip : public ClipSource {
 public:
  FolderClip(std::vector<std::string> names, ClipInfo info)
      : names_(std::move(names)),
        info_(std::move(info)),
        resizer_({info_.source_height, info_.source_width}, {info_.height, info_.width}) {}

  [[nodiscard]] const ClipInfo& info() const override { return info_; }

  bool next(std::vector<std::uint8_t>& rgb) override {
    if (next_ == info_.frame_indices.size()) return false;
    const auto index = static_cast<std::size_t>(info_.frame_indices[next_++]);
    const std::string path = (fs::path(info_.path) / names_[index]).string();
    const Picture picture = decode_picture(read_image_file(InputFile(path)));
    check_size(path, picture.size);
    rgb.resize(static_cast<std::size_t>(info_.height) * static_cast<std::size_t>(info_.width) * 3);
    resizer_.run(picture.rgb.data(), rgb.data());
    return true;
  }

  void check_size(const std::string& path, FrameSize size) const {
    const FrameSize first = resizer_.in();
    if (size != first)
      fail(ErrorKind::kInput, "{}: is {}x{} pixels, the folder's first frame is {}x{}; scale them to one size", path,
           size.width, size.height, first.width, first.height);
  }

  /// Every frame's header, before any work is spent on the first.
  void check_all() const {
    for (const std::string& name : names_) {
      const std::string path = (fs::path(info_.path) / name).string();
      const EncodedImage image = read_image_file(InputFile(path));
      if (picture_size(image) != resizer_.in()) check_size(path, decode_picture(image).size);
    }
  }

 private:
  std::vector<std::string> names_;
  ClipInfo info_;
  FrameResizer resizer_;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<ClipSource> open_folder(const std::string& path, const MediaOptions& options,
                                        const PreprocessConfig& preprocess) {
  std::vector<std::string> names = list_frames(path);
  if (names.empty())
    fail(ErrorKind::kInput, "{}: is a folder without images; put jpeg, png, webp or bmp frames there", path);
  ClipInfo info;
  info.kind = MediaKind::kFrames;
  info.path = path;
  Sampling sampling = sample_all(path, static_cast<std::int64_t>(names.size()), options, preprocess.temporal_patch);
  info.frame_indices = std::move(sampling.indices);
  info.sample_fps = sampling.sample_fps;
  const FrameSize first = decode_picture(read_image_file(InputFile((fs::path(path) / names[0]).string()))).size;
  info.source_height = first.height;
  info.source_width = first.width;
  plan_sizes(info, options, preprocess);
  auto clip = std::make_unique<FolderClip>(std::move(names), std::move(info));
  clip->check_all();
  return clip;
}

}  // namespace purekv
