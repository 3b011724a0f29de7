#pragma once

// Ceilings for the benchmarks: products that never leave the registers, reads that use every line once.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/parallel.h"

namespace purekv {

double seconds(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

constexpr std::int64_t kPeakSteps = 4'000'000;
constexpr int kPeakChains = 12;

#if defined(__x86_64__)
// Assembly, because GCC 12 keeps such sums on the stack. Registers 1 to 12 sum up; 0 * 0 is as fast as any product.
inline void fma_loop_avx512() {
  std::int64_t steps = kPeakSteps;
  asm volatile(
      "vzeroall\n 1:\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm1\n vfmadd231ps %%zmm0, %%zmm0, %%zmm2\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm3\n vfmadd231ps %%zmm0, %%zmm0, %%zmm4\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm5\n vfmadd231ps %%zmm0, %%zmm0, %%zmm6\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm7\n vfmadd231ps %%zmm0, %%zmm0, %%zmm8\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm9\n vfmadd231ps %%zmm0, %%zmm0, %%zmm10\n"
      "vfmadd231ps %%zmm0, %%zmm0, %%zmm11\n vfmadd231ps %%zmm0, %%zmm0, %%zmm12\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(steps)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "cc");
}

inline void fma_loop_avx2() {
  std::int64_t steps = kPeakSteps;
  asm volatile(
      "vzeroall\n 1:\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm1\n vfmadd231ps %%ymm0, %%ymm0, %%ymm2\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm3\n vfmadd231ps %%ymm0, %%ymm0, %%ymm4\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm5\n vfmadd231ps %%ymm0, %%ymm0, %%ymm6\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm7\n vfmadd231ps %%ymm0, %%ymm0, %%ymm8\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm9\n vfmadd231ps %%ymm0, %%ymm0, %%ymm10\n"
      "vfmadd231ps %%ymm0, %%ymm0, %%ymm11\n vfmadd231ps %%ymm0, %%ymm0, %%ymm12\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(steps)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "cc");
}
#endif

/// float32 fused multiply-adds that this machine's widest units do, GFLOP/s on `threads` threads; 0: not measured.
inline double fma_peak(int threads) {
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  if (!wide && (__builtin_cpu_supports("avx2") == 0 || __builtin_cpu_supports("fma") == 0)) return 0;
  const double time = seconds([&] {
    parallel_for(threads, threads, [&](std::int64_t /*thread*/) { wide ? fma_loop_avx512() : fma_loop_avx2(); });
  });
  return 2e-9 * (wide ? 16 : 8) * kPeakChains * static_cast<double>(kPeakSteps) * threads / time;
#else
  return threads * 0.0;
#endif
}

/// GB/s of reading `bytes` at `data` once on `threads` threads.
inline double read_bandwidth(const void* data, std::int64_t bytes, int threads) {
  constexpr std::int64_t kBlock = 1LL << 17U;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(bytes / kBlock));
  const double time = seconds([&] {
    parallel_for(threads, bytes / kBlock, [&](std::int64_t i) {
      const auto* words = reinterpret_cast<const std::uint64_t*>(static_cast<const std::byte*>(data) + i * kBlock);
      std::uint64_t sum[8] = {};
      for (std::int64_t w = 0; w < kBlock / 8; w += 8)
        for (std::int64_t j = 0; j < 8; ++j) sum[j] += words[w + j];
      for (const std::uint64_t s : sum) sums[static_cast<std::size_t>(i)] += s;
    });
  });
  std::uint64_t total = 0;
  for (const std::uint64_t s : sums) total += s;
  return total == 0 ? 0 : 1e-9 * static_cast<double>(bytes) / time;
}

}  // namespace purekv
