#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace purekv {

/// Keys and values of one KV head: rows x head_dim each, somebody else's memory.
struct KvHeadView {
  const void* k = nullptr;
  const void* v = nullptr;
  std::int64_t rows = 0;
  std::int64_t stride = 0;  ///< elements from row to row, K and V alike
};

/// Keys (after RoPE) and values of one layer, ragged: each KV head has its own length.
struct KvView {
  DType dtype = DType::kF32;
  std::vector<KvHeadView> heads;  ///< [KV heads]; empty: no rows
};

/// The same of one cache head that grows row by row, in memory that kernels read: the count may change between two
/// launches of one captured graph.
struct KvRows {
  void* k = nullptr;
  void* v = nullptr;
  std::int64_t rows = 0;  ///< rows held; the next one goes to k + rows * head_dim
};

}  // namespace purekv
