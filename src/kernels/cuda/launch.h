#pragma once

#include <cstdint>

#include "device/cuda/cuda_device.h"

/// What every .cu file needs around a launch.
namespace purekv::cuda {

[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// After a launch: throws where it could not start. Faults inside a kernel come out at the next wait.
inline void check_launch(const char* what) { cuda_check(cudaGetLastError(), what); }

/// Lets a kernel take more than 48 KiB of dynamic shared memory.
template <class Kernel>
void allow_shared(Kernel kernel, std::size_t bytes) {
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "asking for shared memory");
}

}  // namespace purekv::cuda
