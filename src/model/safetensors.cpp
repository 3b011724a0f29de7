#include "model/safetensors.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/fail.h"
#include "model/json_fields.h"

namespace purekv {
namespace {

using nlohmann::json;
using Entry = SafetensorsFile::Entry;

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxName = 1024;
// A value takes 20 to 100 bytes of tree: bounds memory at a fraction of a GB for the worst header.
constexpr JsonLimits kHeaderLimits = {.depth = 4, .values = 3'000'000};

struct OpenFile {
  int fd = -1;
  std::uint64_t size = 0;
  explicit OpenFile(const std::string& path, const std::string& place)
      : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {  // NONBLOCK: a FIFO would wait for ever
    if (fd < 0)
      fail(ErrorKind::kInput, "{}: {}: copy the file into the model's directory", place, std::strerror(errno));
    struct stat status {};
    if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(fd);
      fail(ErrorKind::kInput, "{}: is not a regular file: put the safetensors file in its place", place);
    }
    size = static_cast<std::uint64_t>(status.st_size);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(fd); }
};

void read_exactly(const OpenFile& file, std::uint64_t offset, void* out, std::size_t bytes, const std::string& place) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got =
        ::pread(file.fd, static_cast<char*>(out) + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      fail(ErrorKind::kInput, "{}: byte {}: {}: copy the file again", place, offset + done,
           got < 0 ? std::strerror(errno) : "the file ends");
    done += static_cast<std::size_t>(got);
  }
}

/// What Git leaves in place of a large file that was not fetched.
void refuse_lfs_pointer(const OpenFile& file, const std::string& place) {
  constexpr std::string_view kPointer = "version https://git-lfs";
  if (file.size < kPointer.size()) return;
  std::array<char, kPointer.size()> begin{};
  read_exactly(file, 0, begin.data(), begin.size(), place);
  if (std::string_view(begin.data(), begin.size()) == kPointer)
    fail(ErrorKind::kInput,
         "{}: is a Git LFS pointer, the weights themselves were not fetched: run `git lfs pull` in the model's "
         "directory",
         place);
}

/// The JSON text; the data part begins 8 bytes after its length.
std::string read_header(const OpenFile& file, const std::string& place) {
  if (file.size < 8)
    fail(ErrorKind::kInput, "{}: {} bytes, too short for a safetensors file: copy the file again", place, file.size);
  refuse_lfs_pointer(file, place);
  unsigned char raw[8];
  read_exactly(file, 0, raw, sizeof raw, place);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8U | raw[i];
  if (length < 2 || length > kMaxHeader || length > file.size - 8)
    fail(ErrorKind::kInput, "{}: byte 0: header length {} in a file of {} bytes: copy the file again", place, length,
         file.size);
  std::string text(static_cast<std::size_t>(length), '\0');
  read_exactly(file, 8, text.data(), text.size(), place);
  if (!text.starts_with("{"))
    fail(ErrorKind::kInput, "{}: byte 8: the header is no JSON object: copy the file again", place);
  return text;
}

std::optional<std::int64_t> size_of_json(const json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    return std::nullopt;
  return static_cast<std::int64_t>(value.get<std::uint64_t>());
}

/// What stands between the braces of one tensor.
class EntryReader {
 public:
  EntryReader(const std::string& place, const std::string& name, const json& body)
      : place_(place), name_(name), body_(body) {}

  Entry read() const {
    if (name_.empty() || name_.size() > kMaxName || name_.find('\0') != std::string::npos)
      refuse("bad name: use 1 to 1024 bytes");
    if (!body_.is_object() || body_.size() != 3 || !body_.contains("dtype") || !body_.contains("shape") ||
        !body_.contains("data_offsets"))
      refuse("needs exactly dtype, shape and data_offsets: copy the file again");
    Entry entry;
    entry.name = name_;
    entry.dtype = dtype();
    entry.shape = sizes("shape", kMaxRank);
    const auto offsets = sizes("data_offsets", 2);
    if (offsets.size() != 2 || offsets[0] > offsets[1]) refuse("data_offsets are no range: copy the file again");
    entry.begin = offsets[0];
    entry.bytes = offsets[1] - offsets[0];
    if (shape_bytes(entry) != entry.bytes)
      refuse(fmt::format("shape [{}] of {} does not fill {} bytes: copy the file again", fmt::join(entry.shape, ", "),
                         name_of(entry.dtype), entry.bytes));
    return entry;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorKind::kInput, "{}: tensor '{}': {}", place_, printable(name_), what);
  }

  DType dtype() const {
    const json& value = body_.at("dtype");
    const std::string name = value.is_string() ? value.get<std::string>() : value.type_name();
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
      if (name == name_of(type)) return type;
    refuse(fmt::format("dtype {} is not supported: convert the weights to F32, BF16 or F16", printable(name, 40)));
  }

  std::vector<std::int64_t> sizes(const char* field, std::size_t max_count) const {
    const json& list = body_.at(field);
    if (!list.is_array() || list.size() > max_count)
      refuse(fmt::format("{} is no list of at most {}: copy the file again", field, max_count));
    std::vector<std::int64_t> out;
    for (const json& item : list) {
      const auto size = size_of_json(item);
      if (!size) refuse(fmt::format("{} holds {}: use integers from 0 to 2^63 - 1", field, printable(item.dump(), 40)));
      out.push_back(*size);
    }
    return out;
  }

  std::int64_t shape_bytes(const Entry& entry) const {
    auto bytes = static_cast<std::int64_t>(size_of(entry.dtype));
    for (const std::int64_t dim : entry.shape)
      if (__builtin_mul_overflow(bytes, dim, &bytes)) refuse("shape overflows 64 bits: copy the file again");
    return bytes;
  }

  const std::string& place_;
  const std::string& name_;
  const json& body_;
};

void check_metadata(const json& metadata, const std::string& place) {
  bool text = metadata.is_object();
  for (const auto& item : metadata.items()) text = text && item.value().is_string();
  if (!text) fail(ErrorKind::kInput, "{}: __metadata__ is no map of strings: copy the file again", place);
}

std::vector<Entry> read_entries(const json& header, const std::string& place) {
  std::vector<Entry> entries;
  for (const auto& [name, body] : header.items()) {
    if (name == "__metadata__")
      check_metadata(body, place);
    else
      entries.push_back(EntryReader(place, name, body).read());
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes); });
  return entries;
}

/// The tensors must cover the data part exactly: what is beyond would be read past the mapping (SIGBUS),
/// what is between would be a second content of the file.
void check_cover(const std::vector<Entry>& entries, std::int64_t data_bytes, const std::string& place) {
  std::int64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end)
      fail(ErrorKind::kInput, "{}: tensor '{}' begins at data byte {}, the one before ends at {}: copy the file again",
           place, printable(entry.name), entry.begin, end);
    end += entry.bytes;
    if (end > data_bytes)
      fail(ErrorKind::kInput, "{}: tensor '{}' ends at data byte {} of {}: the file is cut short; copy it again", place,
           printable(entry.name), end, data_bytes);
  }
  if (end != data_bytes)
    fail(ErrorKind::kInput, "{}: {} data bytes, the tensors end at {}: copy the file again", place, data_bytes, end);
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile result;
  result.place_ = printable(path, 1000);
  const OpenFile file(path, result.place_);
  std::size_t data_at = 8;
  {
    const std::string text = read_header(file, result.place_);
    data_at += text.size();
    result.entries_ = read_entries(parse_json_object(text, result.place_, kHeaderLimits), result.place_);
  }
  check_cover(result.entries_, static_cast<std::int64_t>(file.size - data_at), result.place_);
  void* map = ::mmap(nullptr, static_cast<std::size_t>(file.size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (map == MAP_FAILED)
    fail(ErrorKind::kResource, "{}: cannot map {} bytes: {}; raise the address space limit", result.place_, file.size,
         std::strerror(errno));
  result.map_ = map;
  result.map_bytes_ = static_cast<std::size_t>(file.size);
  for (Entry& entry : result.entries_) entry.data = static_cast<const std::byte*>(map) + data_at + entry.begin;
  return result;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : place_(std::move(other.place_)),
      entries_(std::move(other.entries_)),
      map_(std::exchange(other.map_, nullptr)),
      map_bytes_(std::exchange(other.map_bytes_, 0)) {}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) ::munmap(map_, map_bytes_);
}

}  // namespace purekv
