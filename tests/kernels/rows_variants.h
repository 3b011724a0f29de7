#pragma once

#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/rows_tile.h"

namespace purekv {

/// The rows of the table that this machine has.
inline std::vector<const RowsIsa*> rows_variants() {
  std::vector<const RowsIsa*> found = {&kRowsGeneric};
  if (active_isa() >= Isa::kAvx2) found.push_back(&kRowsAvx2);
  if (active_isa() >= Isa::kAvx512) found.push_back(&kRowsAvx512);
  return found;
}

}  // namespace purekv
