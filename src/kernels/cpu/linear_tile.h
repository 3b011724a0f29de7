#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace purekv {

struct Context;
struct LinearParams;

/// Rows of a weight as the file holds them; any byte alignment. Plain data: it crosses into files that are compiled
/// for other instruction sets.
struct WeightRows {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t stride = 0;  ///< elements
  std::int64_t rows = 0;
};

/// A slice of the sum: inputs [first, first + depth), depth at most the table's.
struct DepthSlice {
  std::int64_t first = 0, depth = 0;
};

/// out [rows][cols] (+)= packed x (packed weight)^T + bias.
struct LinearBlock {
  const void* x = nullptr;       ///< row tiles as pack_x leaves them
  const void* weight = nullptr;  ///< column panels as pack_weight leaves them
  float* out = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0, cols = 0, depth = 0;
  const float* bias = nullptr;  ///< [cols] or null
  bool add = false;             ///< to what `out` holds, else overwrites
};

/// Few rows against weights that are read once, in place.
struct LinearStream {
  const float* x = nullptr;  ///< [rows][depth], already rounded where the product asks for it
  std::int64_t x_stride = 0, rows = 0, depth = 0;
  WeightRows weight;
  const float* bias = nullptr;  ///< [weight.rows] or null
  float* out = nullptr;         ///< [rows][weight.rows]
  std::int64_t out_stride = 0;
  bool add = false;
};

/// Rows that `x` is packed from.
struct InputRows {
  const float* data = nullptr;
  std::int64_t stride = 0, rows = 0;
  bool round = false;  ///< to bf16, nearest even
};

/// The closed table: one row an instruction set. Packed operands take `element` bytes a value: float32, or bf16 where
/// the products are of bf16 pairs.
struct LinearIsa {
  const char* name;
  std::int64_t tile_rows, tile_cols;  ///< what one step of the micro-kernel makes
  std::int64_t depth;                 ///< values a packed row holds: the longest slice of the sum
  std::int64_t element;
  /// Row tiles [tile_rows][depth], the last one filled with zeros.
  void (*pack_x)(const InputRows& x, const DepthSlice& slice, void* out);
  /// Column panels of tile_cols weight rows, depth * tile_cols values each, the last one filled with zeros.
  void (*pack_weight)(const WeightRows& weight, const DepthSlice& slice, void* out);
  /// 2 * rows * cols * depth FLOPs.
  void (*multiply)(const LinearBlock& block);
  /// 2 * rows * weight.rows * depth FLOPs; reads each weight once.
  void (*stream)(const LinearStream& task);
};

extern const LinearIsa kLinearGeneric;
extern const LinearIsa kLinearAvx2;
extern const LinearIsa kLinearAvx512;
extern const LinearIsa kLinearAvx512Bf16;  ///< bf16 weights and rounded x only
extern const LinearIsa kLinearAmx;         ///< the same

/// The row of the table that this machine runs: `bf16` where both operands are bf16.
const LinearIsa& linear_isa(bool bf16);

/// linear() on a given row of the table; kernels/linear.cpp.
void linear_on(const LinearIsa& isa, const Context& context, const LinearParams& params);

}  // namespace purekv
