#include "media/codec/container_check.h"

#include <array>
#include <cstring>

#include "base/fail.h"
#include "media/file_kind.h"

namespace purekv {

void check_within(const InputFile& file, const char* name, std::int64_t at, std::uint64_t size) {
  if (size > static_cast<std::uint64_t>(file.size() - at))
    fail(ErrorKind::kInput, "{}: its {} at byte {} has {} bytes, the file {}; it is cut short, copy it again",
         file.path(), name, at, size, file.size());
}

void refuse_table(const InputFile& file, const char* name, std::uint64_t entries, std::uint64_t bytes) {
  fail(ErrorKind::kInput, "{}: its {} table claims {} entries in {} bytes; the file is damaged, copy or re-encode it",
       file.path(), name, entries, bytes);
}

void check_container(const InputFile& file) {
  switch (file_kind(file.head(kHeadBytes))) {
    case FileKind::kMov:
      return check_mp4(file);
    case FileKind::kMatroska:
      return check_matroska(file);
    default:
      return check_avi(file);
  }
}

/// A list of RIFF chunks, one a GiB. A size of 0 is of a recorder that was not stopped: what is there is all there is.
void check_avi(const InputFile& file) {
  constexpr std::int64_t kHeader = 8;
  std::int64_t at = 0;
  while (at + kHeader <= file.size()) {
    std::array<std::uint8_t, kHeader> header{};
    file.read_exactly(at, header.data(), header.size());
    if (std::memcmp(header.data(), "RIFF", 4) != 0) return;
    std::uint64_t size = 0;
    for (std::size_t i = 4; i-- > 0;) size = size << 8U | header[4 + i];
    if (size == 0) return;
    check_within(file, "RIFF chunk", at + kHeader, size);
    at += kHeader + static_cast<std::int64_t>(size + size % 2);
  }
}

}  // namespace purekv
