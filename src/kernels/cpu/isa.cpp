#include "kernels/cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
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

#if defined(__x86_64__)
/// What __builtin_cpu_supports has no name for in every compiler.
struct MoreFeatures {
  bool f16c = false, avx512_bf16 = false, amx = false;
};

MoreFeatures more_features() {
  constexpr unsigned kF16c = 1U << 29U;       // leaf 1, ecx
  constexpr unsigned kAmxBf16 = 1U << 22U;    // leaf 7, edx
  constexpr unsigned kAmxTile = 1U << 24U;    // leaf 7, edx
  constexpr unsigned kAvx512Bf16 = 1U << 5U;  // leaf 7.1, eax
  MoreFeatures found;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) found.f16c = (c & kF16c) != 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) found.amx = (d & kAmxBf16) != 0 && (d & kAmxTile) != 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) found.avx512_bf16 = (a & kAvx512Bf16) != 0;
  return found;
}
#endif

Isa machine_isa() {
#if defined(__x86_64__)
  // The builtin also asks whether the system saves the vector registers.
  const MoreFeatures more = more_features();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && more.f16c) {
    if (!more.avx512_bf16) return Isa::kAvx512;
    return more.amx && tiles_granted() ? Isa::kAmx : Isa::kAvx512Bf16;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && more.f16c) return Isa::kAvx2;
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
