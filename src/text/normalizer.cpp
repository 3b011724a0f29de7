#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/fail.h"
#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace purekv {
namespace {

/// Below the first combining mark nothing decomposes further or composes with what precedes it.
constexpr char32_t kFirstMark = 0x300;
constexpr unsigned kFirstMarkLead = 0xCC;  ///< its first byte in UTF-8

/// One below the first Hangul trail; it composes with nothing, but utf8proc 2.8 drops it after a syllable.
constexpr char32_t kHangulTrailBase = 0x11A7;

bool stands_alone(char32_t code) { return code == kHangulTrailBase || is_inert_under_nfc(code); }

struct Mark {
  utf8proc_int32_t code;
  utf8proc_propval_t combining_class;
};

/// Composes one stretch between inert code points. Buffers are kept from stretch to stretch.
class Composer {
 public:
  void add(char32_t code) {
    // The longest canonical decomposition has four code points.
    std::array<utf8proc_int32_t, 8> parts{};
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts.data(), parts.size(),
                                static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), &boundary);
    PUREKV_ASSERT(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    for (utf8proc_ssize_t i = 0; i < count; ++i) add_part(parts[static_cast<std::size_t>(i)]);
  }

  void flush(std::string& out) {
    order_marks();
    if (codes_.empty()) return;
    const utf8proc_ssize_t count =
        utf8proc_normalize_utf32(codes_.data(), static_cast<utf8proc_ssize_t>(codes_.size()),
                                 static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    PUREKV_ASSERT(count >= 0 && count <= static_cast<utf8proc_ssize_t>(codes_.size()));
    for (utf8proc_ssize_t i = 0; i < count; ++i)
      append_utf8(out, static_cast<char32_t>(codes_[static_cast<std::size_t>(i)]));
    codes_.clear();
  }

 private:
  void add_part(utf8proc_int32_t code) {
    const utf8proc_propval_t combining_class = utf8proc_get_property(code)->combining_class;
    if (combining_class != 0) {
      marks_.push_back({code, combining_class});
      return;
    }
    order_marks();
    codes_.push_back(code);
  }

  /// Canonical order by a stable sort: utf8proc's own swaps neighbours, quadratic on a long run of marks.
  void order_marks() {
    if (marks_.empty()) return;
    std::stable_sort(marks_.begin(), marks_.end(),
                     [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    for (const Mark& mark : marks_) codes_.push_back(mark.code);
    marks_.clear();
  }

  std::vector<utf8proc_int32_t> codes_;  ///< decomposed, in canonical order
  std::vector<Mark> marks_;              ///< the run that is open
};

}  // namespace

std::string to_nfc(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  Composer composer;
  for (std::size_t at = 0; at < utf8.size();) {
    const Utf8Step step = read_utf8(utf8.substr(at));
    const std::size_t next = at + step.length;
    const bool plain = step.code < kFirstMark;
    const bool followed_by_plain = next == utf8.size() || static_cast<unsigned char>(utf8[next]) < kFirstMarkLead;
    if (plain) composer.flush(out);
    if (plain && followed_by_plain) {
      out += utf8.substr(at, step.length);
    } else if (!plain && stands_alone(step.code)) {
      composer.flush(out);
      out += utf8.substr(at, step.length);
    } else {
      composer.add(step.code);
    }
    at = next;
  }
  composer.flush(out);
  return out;
}

}  // namespace purekv
