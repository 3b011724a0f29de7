#include "media/file_kind.h"

#include <array>
#include <string_view>

namespace purekv {
namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  std::size_t at;
  std::string_view bytes;
  FileKind kind;
};

constexpr auto kSignatures = std::to_array<Signature>({
    {0, "\x93NUMPY"sv, FileKind::kNpy},
    {0, "\xFF\xD8\xFF"sv, FileKind::kJpeg},
    {0, "\x89PNG\r\n\x1A\n"sv, FileKind::kPng},
    {8, "WEBP"sv, FileKind::kWebp},
    {0, "BM"sv, FileKind::kBmp},
    {0, "GIF8"sv, FileKind::kOtherImage},
    {0, "II*\0"sv, FileKind::kOtherImage},
    {0, "MM\0*"sv, FileKind::kOtherImage},
    {0, "\x1A\x45\xDF\xA3"sv, FileKind::kMatroska},
    {8, "AVI "sv, FileKind::kAvi},
    // A QuickTime file is a list of boxes; these are the ones that stand first.
    {4, "ftyp"sv, FileKind::kMov},
    {4, "moov"sv, FileKind::kMov},
    {4, "mdat"sv, FileKind::kMov},
    {4, "wide"sv, FileKind::kMov},
    {4, "free"sv, FileKind::kMov},
    {4, "skip"sv, FileKind::kMov},
    {4, "pnot"sv, FileKind::kMov},
    {4, "styp"sv, FileKind::kMov},
});

/// "BM" alone may begin a text: the size of the second header must follow, 12 to 124 in four bytes.
bool is_bmp_header(std::span<const std::uint8_t> head) {
  return head.size() >= kHeadBytes && head[14] >= 12 && head[14] <= 124 && head[15] == 0 && head[16] == 0 &&
         head[17] == 0;
}

}  // namespace

FileKind file_kind(std::span<const std::uint8_t> head) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  for (const Signature& signature : kSignatures) {
    const bool in_riff = signature.at == 8;
    if (in_riff && !text.starts_with("RIFF")) continue;
    if (signature.kind == FileKind::kBmp && !is_bmp_header(head)) continue;
    if (text.size() >= signature.at && text.substr(signature.at).starts_with(signature.bytes)) return signature.kind;
  }
  return FileKind::kUnknown;
}

}  // namespace purekv
