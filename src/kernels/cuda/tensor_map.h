#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/matrix.h"

namespace purekv::cuda {

struct Extent {
  std::int64_t size, stride;  ///< stride in elements, a multiple of 16 bytes
};

/// A tensor [z][y][x] of bf16 or fp8 for the bulk copy engine, in boxes of {128 bytes, y_box, z_box} that lie in shared
/// memory with 128-byte swizzle; what lies past its end reads as zero and is not written. `data` at 16 bytes.
CUtensorMap make_tensor_map(const void* data, DType type, std::int64_t x, Extent y, Extent z, std::int64_t y_box,
                            std::int64_t z_box);

}  // namespace purekv::cuda
