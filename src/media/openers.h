#pragma once

#include <memory>
#include <string>

#include "media/input_file.h"
#include "purekv/media.h"

namespace purekv {

// One opener a kind of medium; open_media picks. The last three are in codec/, or in absent/ where a build has no
// decoders; there they throw Error(kInput).

/// A `.npy` file, uint8 [T, H, W, 3].
std::unique_ptr<ClipSource> open_npy(InputFile file, const MediaOptions& options, const PreprocessConfig& preprocess);

/// A folder of images: one clip, names in bytewise order.
std::unique_ptr<ClipSource> open_folder(const std::string& path, const MediaOptions& options,
                                        const PreprocessConfig& preprocess);
std::unique_ptr<ClipSource> open_image(InputFile file, const MediaOptions& options, const PreprocessConfig& preprocess);
std::unique_ptr<ClipSource> open_video(InputFile file, const MediaOptions& options, const PreprocessConfig& preprocess);

}  // namespace purekv
