#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <string_view>

#include "media/codec/container_check.h"

namespace purekv {
namespace {

constexpr std::int64_t kHeader = 8;
// Samples of a fragment that are told by their number alone: each takes memory, none takes a byte.
constexpr std::uint64_t kMostUntold = 1 << 22;

struct Box {
  std::array<char, 5> name{};
  std::int64_t at = 0, body = 0, end = 0;
  [[nodiscard]] std::string_view type() const { return {name.data(), 4}; }
};

constexpr auto kTopLevel = std::to_array<std::string_view>(
    {"ftyp", "moov", "moof", "mdat", "mfra", "free", "skip", "wide", "uuid", "sidx", "styp", "meta", "udta", "pdin"});
constexpr auto kParents = std::to_array<std::string_view>({"moov", "trak", "mdia", "minf", "stbl", "moof", "traf"});

template <std::size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class BoxWalk {
 public:
  explicit BoxWalk(const InputFile& file) : file_(file) {}

  void run() {
    bool fragments = false;
    std::int64_t at = 0;
    while (at + kHeader <= file_.size()) {
      const std::optional<Box> box = read_box(at, file_.size());
      // Behind the last box people append tags of other kinds; players pass over them, and so do we.
      if (!box || !among(kTopLevel, box->type())) return;
      check_within(file_, box->name.data(), at, static_cast<std::uint64_t>(box->end - at));
      fragments = fragments || box->type() == "moof";
      if (among(kParents, box->type())) children(*box, 0);
      at = box->end;
    }
    if (fragments && at < file_.size()) check_within(file_, "last box", at, kHeader);
  }

 private:
  /// The box at `at`; none where its header cannot be one. Its end may be beyond `limit`.
  std::optional<Box> read_box(std::int64_t at, std::int64_t limit) const {
    std::array<std::uint8_t, 16> bytes{};
    const std::size_t got = file_.read_some(at, bytes.data(), bytes.size());
    if (got < static_cast<std::size_t>(kHeader)) return std::nullopt;
    Box box;
    std::copy_n(bytes.begin() + 4, 4, box.name.begin());
    box.at = at;
    box.body = at + kHeader;
    std::uint64_t size = big_endian(bytes.data(), 4);
    if (size == 1 && got == bytes.size()) {
      size = big_endian(bytes.data() + kHeader, 8);
      box.body += 8;
    } else if (size == 0) {
      size = static_cast<std::uint64_t>(limit - at);
    }
    if (size < static_cast<std::uint64_t>(box.body - at)) return std::nullopt;
    constexpr std::uint64_t kFar = 1ULL << 62U;
    box.end = at + static_cast<std::int64_t>(std::min(size, kFar));
    return box;
  }

  void children(const Box& parent, int depth) const {
    constexpr int kMostDepth = 6;  // moov, trak, mdia, minf, stbl and their tables
    if (depth > kMostDepth) return;
    for (std::int64_t at = parent.body; at + kHeader <= parent.end;) {
      const std::optional<Box> box = read_box(at, parent.end);
      if (!box || box->end > parent.end) return;  // libav's own checks are for these
      if (among(kParents, box->type())) children(*box, depth + 1);
      if (box->type() == "stsz") check_sizes(*box);
      if (box->type() == "stz2") check_packed_sizes(*box);
      if (box->type() == "trun") check_run(*box);
      at = box->end;
    }
  }

  [[nodiscard]] std::uint64_t word(const Box& box, std::int64_t index) const {
    std::array<std::uint8_t, 4> bytes{};
    file_.read_some(box.body + index * 4, bytes.data(), bytes.size());
    return big_endian(bytes.data(), bytes.size());
  }
  static std::uint64_t body_bytes(const Box& box) { return static_cast<std::uint64_t>(box.end - box.body); }

  /// version, size of all (or 0), count, a size each
  void check_sizes(const Box& box) const {
    constexpr std::uint64_t kFixed = 12;
    const std::uint64_t each = word(box, 1);
    const std::uint64_t count = word(box, 2);
    if (each == 0 && kFixed + count * 4 > body_bytes(box)) refuse_table(file_, "sample size", count, body_bytes(box));
    if (each * count > static_cast<std::uint64_t>(file_.size()))
      refuse_table(file_, "sample size", count, static_cast<std::uint64_t>(file_.size()));
  }

  /// version, bits of a size, count, sizes of 4, 8 or 16 bits
  void check_packed_sizes(const Box& box) const {
    constexpr std::uint64_t kFixed = 12;
    const std::uint64_t count = word(box, 2);
    if (kFixed + count * (word(box, 1) & 0xFFU) / 8 > body_bytes(box))
      refuse_table(file_, "sample size", count, body_bytes(box));
  }

  /// version and flags, count, then up to four words a sample, a flag bit each
  void check_run(const Box& box) const {
    const std::uint64_t count = word(box, 1);
    const auto words = static_cast<std::uint64_t>(std::popcount(word(box, 0) & 0xF00U));
    if (count * words * 4 > body_bytes(box) || (words == 0 && count > kMostUntold))
      refuse_table(file_, "fragment", count, body_bytes(box));
  }

  const InputFile& file_;
};

}  // namespace

void check_mp4(const InputFile& file) { BoxWalk(file).run(); }

}  // namespace purekv
