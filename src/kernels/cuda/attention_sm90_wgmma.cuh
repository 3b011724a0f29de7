#pragma once

#include "kernels/cuda/hopper.cuh"

/// wgmma m64nNk16 for the shapes that attention uses. An instruction names each of its accumulators, so every shape
/// is its own text; there is nothing else here.
///
/// Accumulators of thread t (of 128): row 16 * (t / 32) + t % 32 / 4 + 8 * r, columns 8 * j + 2 * (t % 4) + {0, 1}
/// are d[4 * j + 2 * r + {0, 1}].
namespace purekv::cuda::hopper {

#define PUREKV_F8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])

/// d[64][128] = (add ? d : 0) + A B^T, A and B K-major in shared memory. d's first registers.
template <int kCount>
__device__ __forceinline__ void multiply_shared_128(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32), PUREKV_F8(d, 40),
        PUREKV_F8(d, 48), PUREKV_F8(d, 56)
      : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_96(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
      "%48, %49, p, 1, 1, 0, 0;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32), PUREKV_F8(d, 40)
      : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_64(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24)
      : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_32(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, p, 1, 1, 0, 0;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8)
      : "l"(a), "l"(b), "r"(add));
}

/// d[64][kColumns] = (add ? d : 0) + A B^T.
template <int kColumns, int kCount>
__device__ __forceinline__ void multiply_shared(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (kColumns == 128)
    multiply_shared_128(d, a, b, add);
  else if constexpr (kColumns == 96)
    multiply_shared_96(d, a, b, add);
  else if constexpr (kColumns == 64)
    multiply_shared_64(d, a, b, add);
  else
    multiply_shared_32(d, a, b, add);
}

// ---- d[64][N] = (add ? d : 0) + A B, A in registers, B N-major in shared memory ----

__device__ __forceinline__ void multiply_registers(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32), PUREKV_F8(d, 40),
        PUREKV_F8(d, 48), PUREKV_F8(d, 56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[48], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
      "{%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32), PUREKV_F8(d, 40)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[40], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %45, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39}, "
      "{%40, %41, %42, %43}, %44, p, 1, 1, 1;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24), PUREKV_F8(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
      : PUREKV_F8(d, 0), PUREKV_F8(d, 8), PUREKV_F8(d, 16), PUREKV_F8(d, 24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

#undef PUREKV_F8

}  // namespace purekv::cuda::hopper
