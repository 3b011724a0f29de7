#pragma once

#include <cuda.h>

#include <cstdint>

#include "base/matrix.h"
#include "flow/kv_view.h"

/// Descriptions of tensors for the copy engine of Hopper GPUs, made on the host.
namespace purekv::cuda {

struct Extent {
  std::int64_t size, stride;  ///< stride in elements, a multiple of 16 bytes
};

/// A tensor [z][y][x] of bf16 or fp8 for the bulk copy engine, in boxes of {128 bytes, y_box, z_box} that lie in shared
/// memory with 128-byte swizzle; what lies past its end reads as zero and is not written. `data` at 16 bytes.
CUtensorMap make_tensor_map(const void* data, DType type, std::int64_t x, Extent y, Extent z, std::int64_t y_box,
                            std::int64_t z_box);

/// Elements from head to head of keys or values; of one head, anything legal.
std::int64_t head_stride(const KvView& view, const void* KvHeadView::*which);

/// Whether keys and values each are one allocation with a constant head stride, so that one map holds all heads.
bool is_one_tensor(const KvView& view, std::int64_t head_dim);

/// Whether the copy engine can begin there.
inline bool is_box_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

}  // namespace purekv::cuda
