#include "utf8.h"

#include <array>

namespace purekv::app {
namespace {

/// The lead bytes of one length and what their second byte may be (Unicode 15, table 3-7).
struct Lead {
  unsigned char first, last;
  unsigned char second_low, second_high;
  std::size_t length;
};

constexpr std::array<Lead, 8> kLeads = {{{0x00, 0x7F, 0, 0, 1},
                                         {0xC2, 0xDF, 0x80, 0xBF, 2},
                                         {0xE0, 0xE0, 0xA0, 0xBF, 3},
                                         {0xE1, 0xEC, 0x80, 0xBF, 3},
                                         {0xED, 0xED, 0x80, 0x9F, 3},
                                         {0xEE, 0xEF, 0x80, 0xBF, 3},
                                         {0xF0, 0xF0, 0x90, 0xBF, 4},
                                         {0xF1, 0xF4, 0x80, 0xBF, 4}}};

std::size_t sequence_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (const Lead& lead : kLeads) {
    if (byte(0) < lead.first || byte(0) > lead.last) continue;
    if (text.size() < lead.length) return 0;
    for (std::size_t i = 1; i < lead.length; ++i) {
      const unsigned char low = i == 1 ? lead.second_low : 0x80;
      // F4 shares its row with F1 to F3 but ends at U+10FFFF.
      const unsigned char high = i == 1 ? (byte(0) == 0xF4 ? 0x8F : lead.second_high) : 0xBF;
      if (byte(i) < low || byte(i) > high) return 0;
    }
    return lead.length;
  }
  return 0;
}

}  // namespace

std::size_t find_ill_formed(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = sequence_length(text.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

}  // namespace purekv::app
