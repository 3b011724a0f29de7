#pragma once

#include <cuda.h>

#include <cstdint>

/// Thin wrappers of the PTX instructions that only sm_90a has: one function an instruction, no policy.
/// Addresses are 32-bit shared-memory addresses. PTX ISA 8.0, chapters on mbarrier, cp.async.bulk.tensor and wgmma.
namespace purekv::cuda::hopper {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// The first byte of dynamic shared memory from which a swizzle of 128 bytes repeats: the segment itself may begin
/// 16-byte aligned, so a kernel asks for 1,024 bytes more than it uses.
__device__ __forceinline__ unsigned char* align_for_swizzle(unsigned char* raw) {
  const std::uint32_t at = shared_address(raw);
  return raw + ((1024 - (at & 1023)) & 1023);
}

// ---- mbarrier ----

__device__ __forceinline__ void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Makes initialised barriers visible to the copy engine; before the block's first __syncthreads.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrives once and lets the phase wait for `bytes` of the copy engine.
__device__ __forceinline__ void barrier_expect(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool barrier_try_wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

/// Waits until the phase of that parity is complete.
__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// ---- clusters ----

/// This block's rank in its cluster.
__device__ __forceinline__ std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of all blocks of the cluster.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/// Arrives at the barrier that lies at the same address in block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive_at(std::uint32_t barrier, std::uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// ---- named barriers: id 0 is __syncthreads ----

__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- bulk tensor copy ----

/// A box of a three-dimensional tensor into shared memory; its bytes count into `barrier`.
__device__ __forceinline__ void load_box(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier, int x, int y,
                                         int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// The same for every block of the cluster whose bit is set in `blocks`: the box and its bytes' count arrive at the
/// same place of each block's shared memory.
__device__ __forceinline__ void load_box_to(std::uint16_t blocks, std::uint32_t to, const CUtensorMap* map,
                                            std::uint32_t barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%4, %5, %6}], [%2], %3;" ::"r"(to),
      "l"(map), "r"(barrier), "h"(blocks), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// `bytes` (whole 16s) from device to shared memory, both 16-byte aligned; they count into `barrier`.
__device__ __forceinline__ void load_bytes(std::uint32_t to, const void* from, std::uint32_t bytes,
                                           std::uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

/// A box towards the second-level cache.
__device__ __forceinline__ void prefetch_box(const CUtensorMap* map, int x, int y, int z) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(map), "r"(x), "r"(y), "r"(z)
               : "memory");
}

/// A box from shared memory to a tensor; what lies past the tensor's end is not written.
__device__ __forceinline__ void store_box(const CUtensorMap* map, std::uint32_t from, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(from), "r"(x), "r"(y), "r"(z)
               : "memory");
}
/// Ends the group of this thread's stores.
__device__ __forceinline__ void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until the shared memory of this thread's stores has been read.
__device__ __forceinline__ void store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Ordinary accesses of shared memory before, accesses of the copy engine and of wgmma after.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- shared memory ----

/// Four 8 x 8 matrices of 16-bit values; lane n gives the address of row n % 8 of matrix n / 8.
__device__ __forceinline__ void store_matrices(std::uint32_t address, const std::uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// ---- registers of a warpgroup ----

/// This thread's warpgroup, from one lane, so that the compiler knows that a warp's lanes agree: descriptors of
/// products then live in the warp's registers, and no product waits for four moves.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 128, 0); }

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- wgmma: D[64][n] += A[64][16] B[16][n], bf16 operands, float32 sums ----

/// Shared-memory operand in 128-byte swizzle. K-major (rows of 64 values along k): `leading` is ignored. N-major:
/// `leading` bytes from 64 columns to the next 64. Eight rows of 128 bytes make 1024, the other stride, in both.
__device__ __forceinline__ std::uint64_t swizzled_operand(std::uint32_t address, std::uint32_t leading) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62U;
  constexpr std::uint64_t kStride = std::uint64_t{1024 >> 4} << 32U;
  return kSwizzle128 | kStride | (std::uint64_t{leading >> 4U} << 16U) | ((address & 0x3FFFFU) >> 4U);
}

/// Shared-memory operand without swizzle, K-major, 16 values along k: blocks of 8 rows x 8 values (128 bytes in a row),
/// the two along k behind each other, eight rows every 256 bytes.
__device__ __forceinline__ std::uint64_t plain_operand(std::uint32_t address) {
  constexpr std::uint64_t kAlongK = std::uint64_t{128 >> 4} << 16U;
  constexpr std::uint64_t kRows = std::uint64_t{256 >> 4} << 32U;
  return kRows | kAlongK | ((address & 0x3FFFFU) >> 4U);
}

/// Orders earlier register writes before the wgmmas that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits until at most kPending groups are in flight.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Ties registers to this place in program order: a wgmma writes (reads) them behind the compiler's back until its
/// group has been waited for.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(std::uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

}  // namespace purekv::cuda::hopper
