#include <sys/stat.h>

#include <utility>

#include "base/fail.h"
#include "media/file_kind.h"
#include "media/openers.h"

namespace purekv {

std::unique_ptr<ClipSource> open_media(const std::string& path, const MediaOptions& options,
                                       const PreprocessConfig& preprocess) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return open_folder(path, options, preprocess);
  InputFile file(path);
  const FileKind kind = file_kind(file.head(kHeadBytes));
  if (kind == FileKind::kNpy) return open_npy(std::move(file), options, preprocess);
  if (is_image(kind)) return open_image(std::move(file), options, preprocess);
  if (is_video(kind)) return open_video(std::move(file), options, preprocess);
  fail(
      ErrorKind::kInput,
      "{}: its first bytes are of no known kind; give mp4, mov, mkv, webm, avi, jpeg, png, webp, bmp, .npy or a folder "
      "of images",
      path);
}

}  // namespace purekv
