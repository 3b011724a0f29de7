#pragma once

namespace purekv {

enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kAmx };

/// The best instruction set that this machine and its system support; env PUREKV_ISA
/// (generic, avx2, avx512, avx512bf16, amx) lowers it. Throws Error(kUsage) for another value.
Isa active_isa();

}  // namespace purekv
