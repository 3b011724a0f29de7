#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "kernels/cuda/launch.h"

/// Kernels of a decode step start before their predecessor has ended (programmatic dependent launch, sm_90 on): they
/// bring weights and cache rows on the way, then wait. Two rules keep that free of races. Before wait_for_previous()
/// a kernel writes nothing, and reads nothing that the operation queued right before it may have written: not its
/// inputs, but weights, and the cache's older rows and their counts. It calls let_next_start() only after that wait,
/// so that of a chain no more than two kernels are ever under way and everything older has ended.
namespace purekv::cuda {

/// Returns when every earlier kernel of the stream has ended and its writes are visible.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// The next kernel may take what this one leaves free of each multiprocessor.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/// Starts bringing weights that are read after the wait to the second-level cache; `bytes` over the block's threads.
__device__ inline void prefetch_weights(const void* from, int bytes) {
  if (from == nullptr) return;
  for (int i = 128 * static_cast<int>(threadIdx.x); i < bytes; i += 128 * static_cast<int>(blockDim.x))
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(static_cast<const char*>(from) + i));
}

/// Queues `kernel`, which follows the two rules above; also into a graph that is being captured.
template <class... Params, class... Args>
void launch_chained(const Context& context, void (*kernel)(Params...), dim3 grid, int threads, std::size_t shared_bytes,
                    Args&&... args) {
  if (shared_bytes > (48U << 10U)) allow_shared(kernel, shared_bytes);
  // All of a chain split the cache the same way: a multiprocessor must be empty to change that, and the next kernel
  // could not move in beside this one.
  cuda_check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
      "asking for shared memory");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(context);
  config.attrs = &attribute;
  // Newer cards run the PTX of 8.0, in which nobody waits for the kernel before.
  config.numAttrs = context.cuda->capability == 90 ? 1 : 0;
  cuda_check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), "launching a decode kernel");
  check_launch("launching a decode kernel");
}

}  // namespace purekv::cuda
