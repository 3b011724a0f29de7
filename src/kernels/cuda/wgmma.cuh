#pragma once

#include "kernels/cuda/hopper.cuh"

/// wgmma in the shapes and types that kernels here use. An instruction names each of its accumulators, so every shape
/// is its own text; there is nothing else here. K-major operands unless said; `add` = 0 writes d, else adds to it.
///
/// Accumulators of thread t (of 128): row 16 * (t / 32) + t % 32 / 4 + 8 * r, columns 8 * j + 2 * (t % 4) + {0, 1}
/// are d[4 * j + 2 * r + {0, 1}].
namespace purekv::cuda::hopper {

// Accumulators by number, and as operands.
#define PUREKV_D16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PUREKV_D32 PUREKV_D16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PUREKV_D40 PUREKV_D32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define PUREKV_D48 PUREKV_D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PUREKV_D64 PUREKV_D48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PUREKV_D96                                                                                         \
  PUREKV_D64                                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PUREKV_F8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define PUREKV_F16(d, i) PUREKV_F8(d, i), PUREKV_F8(d, i + 8)
#define PUREKV_F32(d, i) PUREKV_F16(d, i), PUREKV_F16(d, i + 16)
#define PUREKV_F40(d) PUREKV_F32(d, 0), PUREKV_F8(d, 32)
#define PUREKV_F48(d) PUREKV_F32(d, 0), PUREKV_F16(d, 32)
#define PUREKV_F64(d, i) PUREKV_F32(d, i), PUREKV_F32(d, i + 32)
#define PUREKV_F96(d) PUREKV_F64(d, 0), PUREKV_F32(d, 64)
// The instruction's head; `add` is the number of that operand.
#define PUREKV_WGMMA(add) "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned."

// ---- A and B in shared memory ----

template <int kCount>
__device__ __forceinline__ void multiply_shared_128(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(PUREKV_WGMMA("%66") "m64n128k16.f32.bf16.bf16 {" PUREKV_D64 "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
               : PUREKV_F64(d, 0)
               : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_96(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(PUREKV_WGMMA("%50") "m64n96k16.f32.bf16.bf16 {" PUREKV_D48 "}, %48, %49, p, 1, 1, 0, 0;\n}\n"
               : PUREKV_F48(d)
               : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_64(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(PUREKV_WGMMA("%34") "m64n64k16.f32.bf16.bf16 {" PUREKV_D32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
               : PUREKV_F32(d, 0)
               : "l"(a), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_shared_32(float (&d)[kCount], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(PUREKV_WGMMA("%18") "m64n32k16.f32.bf16.bf16 {" PUREKV_D16 "}, %16, %17, p, 1, 1, 0, 0;\n}\n"
               : PUREKV_F16(d, 0)
               : "l"(a), "l"(b), "r"(add));
}

/// d[64][kColumns] of bf16 operands. d's first registers.
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

/// d[64][192] of bf16 operands, 16 values along k, or of e4m3 ones, 32.
template <bool kFp8>
__device__ __forceinline__ void multiply_wide(float (&d)[96], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (kFp8)
    asm volatile(PUREKV_WGMMA("%98") "m64n192k32.f32.e4m3.e4m3 {" PUREKV_D96 "}, %96, %97, p, 1, 1;\n}\n"
                 : PUREKV_F96(d)
                 : "l"(a), "l"(b), "r"(add));
  else
    asm volatile(PUREKV_WGMMA("%98") "m64n192k16.f32.bf16.bf16 {" PUREKV_D96 "}, %96, %97, p, 1, 1, 0, 0;\n}\n"
                 : PUREKV_F96(d)
                 : "l"(a), "l"(b), "r"(add));
}

/// The same for d[64][128].
template <bool kFp8>
__device__ __forceinline__ void multiply_wide(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (kFp8)
    asm volatile(PUREKV_WGMMA("%66") "m64n128k32.f32.e4m3.e4m3 {" PUREKV_D64 "}, %64, %65, p, 1, 1;\n}\n"
                 : PUREKV_F64(d, 0)
                 : "l"(a), "l"(b), "r"(add));
  else
    multiply_shared_128(d, a, b, add);
}

// ---- A in registers, bf16, B N-major in shared memory ----

__device__ __forceinline__ void multiply_registers(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(PUREKV_WGMMA("%69") "m64n128k16.f32.bf16.bf16 {" PUREKV_D64
                                   "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
               : PUREKV_F64(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[48], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(PUREKV_WGMMA("%53") "m64n96k16.f32.bf16.bf16 {" PUREKV_D48
                                   "}, {%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}\n"
               : PUREKV_F48(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[40], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(PUREKV_WGMMA("%45") "m64n80k16.f32.bf16.bf16 {" PUREKV_D40
                                   "}, {%40, %41, %42, %43}, %44, p, 1, 1, 1;\n}\n"
               : PUREKV_F40(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_registers(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   int add) {
  asm volatile(PUREKV_WGMMA("%37") "m64n64k16.f32.bf16.bf16 {" PUREKV_D32
                                   "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
               : PUREKV_F32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// ---- A in registers, B in shared memory ----

template <int kCount>
__device__ __forceinline__ void multiply_half_128(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b,
                                                  int add) {
  asm volatile(PUREKV_WGMMA("%69") "m64n128k16.f32.f16.f16 {" PUREKV_D64
                                   "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
               : PUREKV_F64(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_half_96(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b,
                                                 int add) {
  asm volatile(PUREKV_WGMMA("%53") "m64n96k16.f32.f16.f16 {" PUREKV_D48 "}, {%48, %49, %50, %51}, %52, p, 1, 1, 0;\n}\n"
               : PUREKV_F48(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_half_64(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b,
                                                 int add) {
  asm volatile(PUREKV_WGMMA("%37") "m64n64k16.f32.f16.f16 {" PUREKV_D32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
               : PUREKV_F32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

template <int kCount>
__device__ __forceinline__ void multiply_half_32(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b,
                                                 int add) {
  asm volatile(PUREKV_WGMMA("%21") "m64n32k16.f32.f16.f16 {" PUREKV_D16 "}, {%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}\n"
               : PUREKV_F16(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

/// d[64][kColumns] of fp16 operands. d's first registers.
template <int kColumns, int kCount>
__device__ __forceinline__ void multiply_half(float (&d)[kCount], const std::uint32_t (&a)[4], std::uint64_t b,
                                              int add) {
  if constexpr (kColumns == 128)
    multiply_half_128(d, a, b, add);
  else if constexpr (kColumns == 96)
    multiply_half_96(d, a, b, add);
  else if constexpr (kColumns == 64)
    multiply_half_64(d, a, b, add);
  else
    multiply_half_32(d, a, b, add);
}

/// d[64][64] of bf16 operands.
__device__ __forceinline__ void multiply_bf16_64(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                                                 int add) {
  asm volatile(PUREKV_WGMMA("%37") "m64n64k16.f32.bf16.bf16 {" PUREKV_D32
                                   "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
               : PUREKV_F32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

#undef PUREKV_WGMMA
#undef PUREKV_F96
#undef PUREKV_F64
#undef PUREKV_F48
#undef PUREKV_F40
#undef PUREKV_F32
#undef PUREKV_F16
#undef PUREKV_F8
#undef PUREKV_D96
#undef PUREKV_D64
#undef PUREKV_D48
#undef PUREKV_D40
#undef PUREKV_D32
#undef PUREKV_D16

}  // namespace purekv::cuda::hopper
