#pragma once

#include "kernels/cuda/hopper.cuh"

/// The one wgmma shape of the gated product: 64 rows of x against 256 rows of weights, 32 bytes of each along k.
/// Accumulators lie as in attention_sm90_wgmma.cuh.
namespace purekv::cuda::hopper {

// An instruction names each of its accumulators; the two types differ in its name and its tail only.
#define PUREKV_F16(d, i)                                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),      \
      "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define PUREKV_MULTIPLY_256(instruction, tail)                                                                    \
  asm volatile(                                                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                               \
      "wgmma.mma_async.sync.aligned." instruction                                                                 \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "    \
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, " \
      "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, " \
      "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, " \
      "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, "    \
      "%122, %123, %124, %125, %126, %127}, %128, %129, p, 1, 1" tail ";\n}\n"                                    \
      : PUREKV_F16(d, 0), PUREKV_F16(d, 16), PUREKV_F16(d, 32), PUREKV_F16(d, 48), PUREKV_F16(d, 64),             \
        PUREKV_F16(d, 80), PUREKV_F16(d, 96), PUREKV_F16(d, 112)                                                  \
      : "l"(a), "l"(b), "r"(add))

/// d[64][256] = (add ? d : 0) + A B^T, both K-major in shared memory; bf16, or e4m3 where kFp8.
template <bool kFp8>
__device__ __forceinline__ void multiply_shared_256(float (&d)[128], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (kFp8)
    PUREKV_MULTIPLY_256("m64n256k32.f32.e4m3.e4m3", "");
  else
    PUREKV_MULTIPLY_256("m64n256k16.f32.bf16.bf16", ", 0, 0");
}

#undef PUREKV_MULTIPLY_256
#undef PUREKV_F16

}  // namespace purekv::cuda::hopper
