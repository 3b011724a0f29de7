#include "base/fail.h"
#include "media/openers.h"

namespace purekv {
namespace {

[[noreturn]] void refuse(const std::string& path, const char* what) {
  fail(ErrorKind::kInput,
       "{}: is {}, and this build has no FFmpeg and no image libraries; build with -DPUREKV_MEDIA=ON, or give a .npy "
       "file of frames",
       path, what);
}

}  // namespace

std::unique_ptr<ClipSource> open_folder(const std::string& path, const MediaOptions& /*options*/,
                                        const PreprocessConfig& /*preprocess*/) {
  refuse(path, "a folder");
}

std::unique_ptr<ClipSource> open_image(InputFile file, const MediaOptions& /*options*/,
                                       const PreprocessConfig& /*preprocess*/) {
  refuse(file.path(), "an image");
}

std::unique_ptr<ClipSource> open_video(InputFile file, const MediaOptions& /*options*/,
                                       const PreprocessConfig& /*preprocess*/) {
  refuse(file.path(), "a video");
}

}  // namespace purekv
