#pragma once

#include <span>

namespace purekv {

/// A range of code points that libraries of other Unicode versions classify otherwise than the reference, with a code
/// point of the reference's category that no version changes and that has as many bytes in UTF-8.
struct StandIn {
  char32_t first, last;
  char32_t stand_in;
};

struct CodeRange {
  char32_t first, last;
};

/// Ascending and disjoint, made by tools/make_unicode_tables.py.
std::span<const StandIn> class_stand_ins();
std::span<const CodeRange> inert_under_nfc();

/// The code point whose general category in any library is the category of `code` in Unicode 16, the reference's.
char32_t class_stand_in(char32_t code);

/// Combining marks, composites and starters of composites younger than Unicode 9.
bool is_inert_under_nfc(char32_t code);

}  // namespace purekv
