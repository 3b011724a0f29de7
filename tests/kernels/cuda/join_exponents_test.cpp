#include "kernels/cuda/join_exponents.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

using cuda::PieceExponents;

struct Case {
  std::int64_t rows, cols, pad = 0;
  int least = -8, most = 3;  ///< of the first pieces
  int widened = 3;           ///< of eight rows, so many have pieces above their base
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << " x " << c.cols << "+" << c.pad << ", exponents " << c.least << " to " << c.most << ", "
             << c.widened << " of 8 rows widened";
}

/// Random codes and exponents, and what they must become.
struct Rows {
  Case size;
  std::int64_t pieces, stride;
  std::vector<std::uint8_t> codes, want;
  std::vector<std::int8_t> exponents;
  std::vector<std::int32_t> widest;
  std::vector<float> scales;

  Rows(const Case& c, std::mt19937& random)
      : size(c),
        pieces((c.cols + PieceExponents::kCols - 1) / PieceExponents::kCols),
        stride(c.cols + c.pad),
        exponents(static_cast<std::size_t>(pieces * c.rows), PieceExponents::kAsBase),
        widest(static_cast<std::size_t>(c.rows), -1000),
        scales(static_cast<std::size_t>(c.rows)) {
    std::uniform_int_distribution<int> code(0, 255);
    for (std::int64_t i = 0; i < c.rows * stride; ++i) codes.push_back(static_cast<std::uint8_t>(code(random)));
    want = codes;
    for (std::int64_t row = 0; row < c.rows; ++row) make_row(row, random);
  }

  [[nodiscard]] std::int8_t& exponent(std::int64_t piece, std::int64_t row) {
    return exponents[static_cast<std::size_t>(piece * size.rows + row)];
  }

  void make_row(std::int64_t row, std::mt19937& random) {
    std::uniform_int_distribution<int> first(size.least, size.most);
    std::uniform_int_distribution<int> above(1, 4);
    int base = -128;
    for (std::int64_t piece = 0; piece < std::min<std::int64_t>(pieces, PieceExponents::kFirst); ++piece) {
      exponent(piece, row) = static_cast<std::int8_t>(first(random));
      base = std::max<int>(base, exponent(piece, row));
    }
    int top = base;
    if (row % 8 < size.widened)
      for (std::int64_t piece = PieceExponents::kFirst + row % 3; piece < pieces; piece += 5) {
        exponent(piece, row) = static_cast<std::int8_t>(std::min(base + above(random), 127));
        top = std::max<int>(top, exponent(piece, row));
      }
    if (top > base) widest[static_cast<std::size_t>(row)] = top;
    scales[static_cast<std::size_t>(row)] = std::ldexp(1.0F, top);
    for (std::int64_t col = 0; col < size.cols; ++col) {
      const int own = exponent(col / PieceExponents::kCols, row);
      const int down = (own == PieceExponents::kAsBase ? base : own) - top;
      std::uint8_t& code = want[static_cast<std::size_t>(row * stride + col)];
      const float value = to_float(Float8{code});
      // Factors below float32's normal numbers count as 0.
      if (down < 0 && !std::isnan(value)) code = to_fp8(down > -127 ? std::ldexp(value, down) : value * 0.0F).bits;
    }
  }
};

class CudaJoinExponents : public CudaTest {
 protected:
  void expect_exact(const Case& c) {
    SCOPED_TRACE(testing::Message() << c);
    const Rows rows(c, random_);
    const Buffer x = to_device(context_, rows.codes);
    const Buffer exponents = to_device(context_, rows.exponents);
    const Buffer widest = to_device(context_, rows.widest);
    const Buffer scales = poisoned(context_, c.rows * 4);
    cuda::join_exponents(context_, {x.data(), DType::kFp8, c.rows, c.cols, rows.stride},
                         {.of_piece = exponents.as<std::int8_t>(), .widest = widest.as<std::int32_t>()},
                         scales.as<float>());
    EXPECT_EQ(to_host<float>(context_, scales.data(), c.rows), rows.scales);
    const auto got = to_host<std::uint8_t>(context_, x.data(), c.rows * rows.stride);
    const auto is_nan = [](std::uint8_t code) { return (code & 0x7FU) == 0x7FU; };
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_TRUE(got[i] == rows.want[i] || (is_nan(got[i]) && is_nan(rows.want[i])))
          << "row " << static_cast<std::int64_t>(i) / rows.stride << " column "
          << static_cast<std::int64_t>(i) % rows.stride;
  }

  std::mt19937 random_{83};
};

TEST_F(CudaJoinExponents, RowsAndPiecesOfEverySize) {
  for (const std::int64_t rows : {1, 7, 8, 9, 300})
    for (const std::int64_t cols : {16, 32, 48, 176, 192, 208, 224, 704, 720, 1056})
      expect_exact({.rows = rows, .cols = cols, .pad = rows == 9 ? 16 : 0});
}

TEST_F(CudaJoinExponents, ExponentsOfTheWholeRange) {
  expect_exact({.rows = 70, .cols = 400, .least = -100, .most = 125, .widened = 4});
  expect_exact({.rows = 70, .cols = 400, .least = -100, .most = -90, .widened = 8});
}

TEST_F(CudaJoinExponents, EqualOnesLeaveRowsAsTheyAre) {
  expect_exact({.rows = 70, .cols = 400, .least = 5, .most = 5, .widened = 0});
}

TEST_F(CudaJoinExponents, NewMemorySaysNothing) {
  const cuda::PieceExponentBuffer made(context_, 37, 9);
  for (const std::int8_t exponent : to_host<std::int8_t>(context_, made.view.of_piece, 37 * 9))
    EXPECT_EQ(exponent, PieceExponents::kAsBase);
  for (const std::int32_t widest : to_host<std::int32_t>(context_, made.view.widest, 37)) EXPECT_LT(widest, -128);
}

TEST_F(CudaJoinExponents, NothingToDo) {
  cuda::join_exponents(context_, {nullptr, DType::kFp8, 0, 64, 64}, {}, nullptr);
  cuda::join_exponents(context_, {nullptr, DType::kFp8, 5, 0, 64}, {}, nullptr);
}

}  // namespace
}  // namespace purekv
