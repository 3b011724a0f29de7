#include <algorithm>
#include <array>
#include <bit>
#include <optional>

#include "media/codec/container_check.h"

namespace purekv {
namespace {

constexpr std::uint32_t kEbml = 0x1A45DFA3, kSegment = 0x18538067, kCluster = 0x1F43B675;
constexpr std::size_t kMostId = 4, kMostSize = 8;

struct Element {
  std::uint32_t id = 0;
  std::int64_t body = 0;
  std::optional<std::uint64_t> size;  ///< none: a live stream's, which ends where its parent goes on
};

/// The element at `at`; none where the bytes there cannot begin one. Throws where the file ends within its header.
std::optional<Element> read_element(const InputFile& file, std::int64_t at) {
  std::array<std::uint8_t, kMostId + kMostSize> bytes{};
  const std::size_t got = file.read_some(at, bytes.data(), bytes.size());
  const auto id_bytes = static_cast<std::size_t>(std::countl_zero(bytes[0])) + 1;
  if (id_bytes > kMostId) return std::nullopt;
  const auto size_bytes = static_cast<std::size_t>(std::countl_zero(bytes[id_bytes])) + 1;
  if (got > id_bytes && size_bytes > kMostSize) return std::nullopt;
  if (id_bytes + size_bytes > got) check_within(file, "last element", at, id_bytes + size_bytes);
  Element element;
  element.id = static_cast<std::uint32_t>(big_endian(bytes.data(), id_bytes));
  element.body = at + static_cast<std::int64_t>(id_bytes + size_bytes);
  const std::uint64_t most = (1ULL << (7 * size_bytes)) - 1;
  const std::uint64_t size = big_endian(bytes.data() + id_bytes, size_bytes) & most;
  if (size != most) element.size = size;
  return element;
}

}  // namespace

/// A finished file states its segment's size. A live one does not: there every element down to the blocks must end
/// within the file.
void check_matroska(const InputFile& file) {
  std::int64_t at = 0;
  while (at < file.size()) {
    const std::optional<Element> element = read_element(file, at);
    if (!element) return;
    const bool parent = element->id == kSegment || element->id == kCluster;
    const char* name = element->id == kSegment   ? "segment"
                       : element->id == kCluster ? "cluster"
                       : element->id == kEbml    ? "EBML header"
                                                 : "element";
    if (element->size) check_within(file, name, element->body, *element->size);
    if (element->id == kSegment && element->size) return;
    at = element->body;
    if (element->size)
      at += static_cast<std::int64_t>(*element->size);
    else if (!parent)
      return;  // no other element may leave its size open: libav's to judge
  }
}

}  // namespace purekv
