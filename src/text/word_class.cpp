#include "text/word_class.h"

#include <utf8proc.h>

#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace purekv {
namespace {

/// Symbols with the property Alphabetic: circled, squared and negative Latin letters.
bool is_enclosed_letter(char32_t code) {
  return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
         (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189);
}

bool is_join_control(char32_t code) { return code == 0x200C || code == 0x200D; }

/// Alphabetic adds the enclosed letters and Nl to the letters; its marks are in M anyway.
bool is_word(char32_t code) {
  if (is_enclosed_letter(code) || is_join_control(code)) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(class_stand_in(code)))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

/// The last code point of `text`, which is not empty.
Utf8Step read_last(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) --at;
  return read_utf8(text.substr(at));
}

}  // namespace

bool starts_with_word(std::string_view text) { return !text.empty() && is_word(read_utf8(text).code); }

bool ends_with_word(std::string_view text) { return !text.empty() && is_word(read_last(text).code); }

std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = read_utf8(text.substr(at));
    if (!is_space(step.code)) break;
    at += step.length;
  }
  return at;
}

std::size_t trailing_space(std::string_view text) {
  std::size_t count = 0;
  while (count < text.size()) {
    const Utf8Step step = read_last(text.substr(0, text.size() - count));
    if (!is_space(step.code)) break;
    count += step.length;
  }
  return count;
}

}  // namespace purekv
