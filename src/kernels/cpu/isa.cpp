#include "kernels/cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/fail.h"

namespace purekv {
namespace {

/// The system hands out the tile registers only to a process that asks; its threads inherit the answer.
bool tiles_granted() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa machine_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
    const bool amx = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && tiles_granted();
    return amx ? Isa::kAmx : Isa::kAvx512Bf16;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return Isa::kAvx2;
#endif
  return Isa::kGeneric;
}

Isa choose() {
  const char* asked = std::getenv("PUREKV_ISA");
  if (asked == nullptr || *asked == '\0') return machine_isa();
  constexpr std::array<std::string_view, 5> kNames = {"generic", "avx2", "avx512", "avx512bf16", "amx"};
  const auto* at = std::find(kNames.begin(), kNames.end(), asked);
  if (at == kNames.end())
    fail(ErrorKind::kUsage, "PUREKV_ISA={} is unknown; known are generic, avx2, avx512, avx512bf16 and amx", asked);
  return std::min(machine_isa(), static_cast<Isa>(at - kNames.begin()));
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace purekv
