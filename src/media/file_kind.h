#pragma once

#include <cstdint>
#include <span>

namespace purekv {

/// What a file's first bytes say. Names decide nothing: `-x.mp4` and `a%03d.png` are files like others.
enum class FileKind {
  kUnknown,
  kNpy,
  kJpeg,
  kPng,
  kWebp,
  kBmp,
  kOtherImage,  ///< gif or tiff: pictures that are not read
  kMov,         ///< mp4 too
  kMatroska,    ///< webm too
  kAvi,
};

constexpr std::size_t kHeadBytes = 18;  ///< what `file_kind` looks at

FileKind file_kind(std::span<const std::uint8_t> head);

[[nodiscard]] constexpr bool is_image(FileKind kind) {
  return kind >= FileKind::kJpeg && kind <= FileKind::kOtherImage;
}
[[nodiscard]] constexpr bool is_video(FileKind kind) { return kind >= FileKind::kMov; }

}  // namespace purekv
