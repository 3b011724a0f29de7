#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace purekv {

/// Whether this build has the CUDA backend; a context names it only where it has.
inline constexpr bool kHasCuda = PUREKV_HAS_CUDA != 0;

enum class Backend { kCpu, kCuda };

struct CudaDevice;  // device/cuda/cuda_device.h

/// Where and how an operation runs; every kernel takes it first. On CUDA every pointer of an
/// operation's parameters is device memory unless its comment says host, and operations are only
/// queued on the device's stream: synchronize() or a download waits for them.
struct Context {
  Backend backend = Backend::kCpu;
  int threads = 1;
  DType compute = DType::kF32;  ///< operand type of the matrix products, and the cache's type
  CudaDevice* cuda = nullptr;   ///< the open device; null on the CPU

  /// Rows of a row-wise operation that fill the device: fewer waste it, more only take memory.
  [[nodiscard]] std::int64_t rows_at_once() const { return backend == Backend::kCuda ? 16384 : 1024; }

  /// Type of rows between two operations of a layer, and of a prefill's residual stream. The CPU keeps float32 and
  /// rounds products' operands only. A decode step's hidden rows are float32 on both.
  [[nodiscard]] DType activation() const { return backend == Backend::kCuda ? compute : DType::kF32; }
};

}  // namespace purekv
