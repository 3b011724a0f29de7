#include "kernels/cpu/isa.h"
#include "kernels/cpu/rows_tile.h"

namespace purekv {

const RowsIsa& rows_isa() {
  static const RowsIsa& chosen = active_isa() >= Isa::kAvx512 ? kRowsAvx512
                                 : active_isa() >= Isa::kAvx2 ? kRowsAvx2
                                                              : kRowsGeneric;
  return chosen;
}

}  // namespace purekv
