#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <string>

#include "device/context.h"
#include "device/cuda/upload_ring.h"

namespace purekv {

/// The one GPU of this process, opened once. Every operation is queued on `stream`.
struct CudaDevice {
  int ordinal = 0;
  int capability = 0;  ///< 10 * major + minor: 80, 90
  int sms = 0;
  std::size_t l2_bytes = 0, smem_bytes = 0;  ///< smem: the most one block may opt in to
  std::string name;
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  std::shared_ptr<cuda::UploadRing> uploads;  ///< shared by copies: the ring knows what is still on its way
};

/// Throws Error(kResource) with CUDA's own words for `what`. Every call and every launch goes through it.
void cuda_check(cudaError_t status, const char* what);

inline cudaStream_t stream_of(const Context& context) { return context.cuda->stream; }

}  // namespace purekv
