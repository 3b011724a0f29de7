#include <algorithm>
#include <iterator>

#include "text/unicode_tables.h"

namespace purekv {
namespace {

/// The row whose range holds `code`, null where there is none.
template <class Row>
const Row* find_row(std::span<const Row> table, char32_t code) {
  const auto after =
      std::upper_bound(table.begin(), table.end(), code, [](char32_t c, const Row& row) { return c < row.first; });
  if (after == table.begin() || code > std::prev(after)->last) return nullptr;
  return &*std::prev(after);
}

}  // namespace

char32_t class_stand_in(char32_t code) {
  const StandIn* const row = find_row(class_stand_ins(), code);
  return row == nullptr ? code : row->stand_in;
}

bool is_inert_under_nfc(char32_t code) { return find_row(inert_under_nfc(), code) != nullptr; }

}  // namespace purekv
