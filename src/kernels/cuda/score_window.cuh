#pragma once

#include "kernels/cuda/score_tiles.cuh"

/// What the kernels of window scores share.
namespace purekv::cuda {

struct WindowKernel {
  const Bf16Bits* q;  ///< the window's first row
  ScoreOperand queries, keys;
  HeadPointers k;
  long long columns;   ///< l - w
  int window, padded;  ///< w, and w rounded up: 16s, on Hopper 64s
  int group;
  float scale;     ///< to base-2 logits
  int piece_keys;  ///< of step 1
  int pieces;
  float2* partial;  ///< [pieces, kv_heads, group * padded] base-2 top and sum
  float* lse;       ///< [kv_heads, group * padded] base 2; +inf in padding
  bool group_max;
  float* out;
};

/// Packed window row: head row / padded of the group, window row row % padded; null in padding.
__device__ inline const Bf16Bits* window_row(const WindowKernel& p, int head, int row) {
  const int g = row / p.padded;
  const int i = row - g * p.padded;
  if (g >= p.group || i >= p.window) return nullptr;
  return p.q + i * p.queries.stride + (head * p.group + g) * p.queries.dims;
}

}  // namespace purekv::cuda
