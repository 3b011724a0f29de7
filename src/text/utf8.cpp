#include "text/utf8.h"

namespace purekv {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

/// Bytes that a lead byte announces, 0 for bytes that lead nothing.
std::uint8_t announced_length(unsigned lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

/// Whether `byte` may follow `lead` directly: the second byte is where overlong forms, surrogates and values
/// above U+10FFFF show.
bool is_second(unsigned lead, unsigned byte) {
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return byte >= low && byte <= high;
}

std::size_t ascii_run(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size() && byte_at(text, i) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step read_utf8(std::string_view text) {
  const unsigned lead = byte_at(text, 0);
  const std::uint8_t length = announced_length(lead);
  if (length == 0) return {Utf8Step::Kind::kBroken, 1, 0};
  if (length == 1) return {Utf8Step::Kind::kWhole, 1, lead};
  char32_t code = lead & (0x7FU >> length);
  for (std::uint8_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Step::Kind::kCut, i, 0};
    const unsigned byte = byte_at(text, i);
    if (i == 1 ? !is_second(lead, byte) : (byte & 0xC0U) != 0x80) return {Utf8Step::Kind::kBroken, i, 0};
    code = code << 6 | (byte & 0x3FU);
  }
  return {Utf8Step::Kind::kWhole, length, code};
}

std::size_t find_ill_formed(std::string_view text) {
  for (std::size_t at = ascii_run(text); at < text.size();) {
    const Utf8Step step = read_utf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kWhole) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const unsigned lead_mark = (0xFF00U >> (more + 1)) & 0xFFU;
  out += static_cast<char>(lead_mark | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80U | (code >> (6 * i) & 0x3FU));
}

std::size_t append_lossy(std::string& out, std::string_view text, bool keep_tail) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t plain = ascii_run(text.substr(at));
    out += text.substr(at, plain);
    at += plain;
    if (at == text.size()) break;
    const Utf8Step step = read_utf8(text.substr(at));
    if (step.kind == Utf8Step::Kind::kCut && keep_tail) break;
    out += step.kind == Utf8Step::Kind::kWhole ? text.substr(at, step.length) : kReplacement;
    at += step.length;
  }
  return at;
}

}  // namespace purekv
