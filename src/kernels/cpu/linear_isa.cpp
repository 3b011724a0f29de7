#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_tile.h"

namespace purekv {
namespace {

const LinearIsa& choose(bool bf16) {
  const Isa isa = active_isa();
  if (bf16 && isa >= Isa::kAmx) return kLinearAmx;
  if (bf16 && isa >= Isa::kAvx512Bf16) return kLinearAvx512Bf16;
  if (isa >= Isa::kAvx512) return kLinearAvx512;
  return isa >= Isa::kAvx2 ? kLinearAvx2 : kLinearGeneric;
}

}  // namespace

const LinearIsa& linear_isa(bool bf16) {
  static const LinearIsa& single = choose(false);
  static const LinearIsa& pairs = choose(true);
  return bf16 ? pairs : single;
}

}  // namespace purekv
