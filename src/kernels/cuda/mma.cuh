#pragma once

#include <cuda_bf16.h>

#include <cstdint>

/// Thin wrappers of the matrix and copy instructions that every GPU from sm_80 on has.
namespace purekv::cuda {

/// The 32-bit address that instructions on shared memory take.
__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// Copies 16 bytes to shared memory asynchronously; both addresses 16-byte aligned. With bytes = 0 nothing is read
/// and zeros are written: the address must still be one that could be formed. Past the first-level cache.
__device__ inline void cp_async_16(std::uint32_t to, const void* from, std::uint32_t bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/// Closes the group of this thread's copies since the last commit.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

/// Waits until at most `kPending` of this thread's groups are under way. Other threads' copies need a barrier after it.
template <int kPending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

/// Four 8 x 8 matrices of 2-byte elements; lane i gives the address of row i % 8 of matrix i / 8. Lane l receives
/// elements (l / 4, 2 (l % 4)) and the next column of each.
__device__ inline void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// The same, each matrix transposed: lane l receives elements (2 (l % 4), l / 4) and the next row.
__device__ inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// d[16 x 8] += a[16 x 16] b[16 x 8], bf16 operands, float32 sums. With g = lane / 4 and t = lane % 4:
/// a: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8 (and the next one);
/// b: column g at rows 2t, 2t + 8; d: row g at columns 2t, 2t + 1, then row g + 8.
__device__ inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats rounded to bf16 in one register, `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ inline float2 unpack_bf16(std::uint32_t x) {
  return {__uint_as_float(x << 16), __uint_as_float(x & 0xFFFF0000U)};
}

/// 2^x on the special-function unit: 2^-inf is 0, NaN stays NaN, subnormal results are 0.
__device__ inline float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  return r;
}

}  // namespace purekv::cuda
