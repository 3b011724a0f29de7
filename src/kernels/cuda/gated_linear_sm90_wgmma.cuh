#pragma once

#include "kernels/cuda/attention_sm90_wgmma.cuh"

/// The one wgmma shape of the gated product: 64 rows of x against 64 rows of each weight, 32 bytes of each along k.
/// Accumulators lie as in attention_sm90_wgmma.cuh.
namespace purekv::cuda::hopper {

#define PUREKV_F8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])

/// d[64][128] = (add ? d : 0) + A B^T, e4m3, both K-major in shared memory.
__device__ __forceinline__ void multiply_fp8_128(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32), PUREKV_F8(d, 40),
        PUREKV_F8(d, 48), PUREKV_F8(d, 56)
      : "l"(a), "l"(b), "r"(add));
}

#undef PUREKV_F8

template <bool kFp8>
__device__ __forceinline__ void multiply_gate_up(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (kFp8)
    multiply_fp8_128(d, a, b, add);
  else
    multiply_shared_128(d, a, b, add);
}

}  // namespace purekv::cuda::hopper
