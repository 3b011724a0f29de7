#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/isa.h"

namespace purekv {

const AttentionIsa& attention_isa() {
  static const AttentionIsa& chosen = active_isa() >= Isa::kAvx512 ? kAttentionAvx512
                                      : active_isa() >= Isa::kAvx2 ? kAttentionAvx2
                                                                   : kAttentionGeneric;
  return chosen;
}

}  // namespace purekv
