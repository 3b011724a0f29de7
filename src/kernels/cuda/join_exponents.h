#pragma once

#include "base/matrix.h"
#include "device/buffer.h"
#include "device/context.h"

namespace purekv::cuda {

/// The exponents of rows of e4m3 that are stored in pieces of 32 columns before any row is known whole: a value is
/// e4m3 * 2^exponent of its piece and row. A row's first pieces say theirs. The others have the largest of these, which
/// is called the row's base, or they say so.
struct PieceExponents {
  static constexpr int kCols = 32;      ///< of a piece
  static constexpr int kFirst = 6;      ///< pieces that always say theirs
  static constexpr int kAsBase = -128;  ///< what stands for the base where a piece says nothing; bytes of 0x80

  std::int8_t* of_piece = nullptr;  ///< [pieces][rows], -126 to 127
  std::int32_t* widest = nullptr;   ///< [rows] the largest of those that are above the base, or less than any
};

/// Memory for them, in which no piece has said anything yet.
struct PieceExponentBuffer {
  Buffer memory;
  PieceExponents view;
  PieceExponentBuffer(const Context& context, std::int64_t rows, std::int64_t pieces);
};

/// Brings every row of x [rows, cols] fp8 to its largest exponent, in place, and writes scales[row] = 2^exponent. Reads
/// and writes the first pieces, all of a row only where one is above its base. What falls below 2^-6 is rounded a
/// second time. cols, and rows in memory, on boundaries of 16.
void join_exponents(const Context& context, const MatrixView& x, const PieceExponents& exponents, float* scales);

}  // namespace purekv::cuda
