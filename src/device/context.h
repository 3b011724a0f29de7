#pragma once

#include "base/dtype.h"

namespace purekv {

enum class Backend { kCpu };

/// Where and how an operation runs; every kernel takes it first.
struct Context {
  Backend backend = Backend::kCpu;
  int threads = 1;
  DType compute = DType::kF32;  ///< operand type of the matrix products, and the cache's type

  /// Type of activations in memory. The CPU keeps float32 and rounds products' operands only.
  [[nodiscard]] DType activation() const { return DType::kF32; }
};

}  // namespace purekv
