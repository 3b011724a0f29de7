#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/rows_reference.h"
#include "kernels/rows_variants.h"
#include "support/random.h"

namespace purekv {
namespace {

struct Tables {
  std::vector<float> cos, sin;
  Tables(std::int64_t rows, std::int64_t half) {
    for (const float angle : random_floats(rows * half, 77)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }
};

/// A fused projection to queries and to [kv_heads][rows][head_dim + pad] keys and values.
struct Problem {
  std::int64_t rows, pad;
  HeadShape shape;
  std::vector<float> qkv;
  Tables tables;
  Problem(std::int64_t r, const HeadShape& s, std::int64_t p)
      : rows(r), pad(p), shape(s), qkv(random_floats(r * width(), 3)), tables(r, s.head_dim / 2) {}

  [[nodiscard]] std::int64_t width() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }
};

struct Result {
  std::vector<float> q;
  std::vector<std::byte> keys, values;

  Result(const Problem& p, DType type)
      : q(static_cast<std::size_t>(p.rows * p.shape.heads * p.shape.head_dim), -7.0F),
        keys(static_cast<std::size_t>(p.shape.kv_heads * p.rows * (p.shape.head_dim + p.pad)) * size_of(type),
             std::byte{0xA5}),
        values(keys) {}

  RopeSplitParams params(const Problem& p, DType type) {
    const std::int64_t wide = p.shape.heads * p.shape.head_dim;
    return {.shape = p.shape,
            .qkv = {p.qkv.data(), DType::kF32, p.rows, p.width(), p.width()},
            .cos = p.tables.cos.data(),
            .sin = p.tables.sin.data(),
            .q = {q.data(), DType::kF32, p.rows, wide, wide},
            .keys = keys.data(),
            .values = values.data(),
            .kv_dtype = type,
            .head_stride = p.rows * (p.shape.head_dim + p.pad),
            .row_stride = p.shape.head_dim + p.pad};
  }
};

float value_at(const std::vector<std::byte>& bytes, DType type, std::int64_t i) {
  return type == DType::kF32 ? load_element<float>(bytes.data(), i) : to_float(load_element<BFloat16>(bytes.data(), i));
}

/// A value within float32's rounding of a bf16 tie may fall on either side: one step of 2^-8.
void expect_near(double got, double want, DType type) {
  const double relative = type == DType::kF32 ? 1e-6 : 1.0 / 128;
  ASSERT_NEAR(got, want, relative * std::abs(want) + 1e-6);
}

void expect_same(const Problem& p, DType type, int threads) {
  Result got(p, type);
  Result expected(p, type);
  rope_split({.threads = threads}, got.params(p, type));
  rope_split_reference(expected.params(p, type));
  SCOPED_TRACE(testing::Message() << "head_dim " << p.shape.head_dim << " rows " << p.rows);
  for (std::size_t i = 0; i < got.q.size(); ++i) expect_near(got.q[i], expected.q[i], DType::kF32);
  ASSERT_EQ(got.values, expected.values) << "values are only stored";
  const std::int64_t step = p.shape.head_dim + p.pad;
  for (std::int64_t i = 0; i < p.shape.kv_heads * p.rows * step; ++i) {
    const double want = value_at(expected.keys, type, i);
    if (i % step < p.shape.head_dim)
      expect_near(value_at(got.keys, type, i), want, type);
    else
      ASSERT_EQ(value_at(got.keys, type, i), want) << "between rows";
  }
}

TEST(Rope, EveryHeadDimAndType) {
  for (const std::int64_t head_dim : {2, 4, 6, 8, 10, 14, 16, 18, 30, 32, 34, 64, 80, 128, 130, 256})
    for (const DType type : {DType::kF32, DType::kBF16}) {
      expect_same(Problem(5, {6, 3, head_dim}, 2), type, 2);
      expect_same(Problem(3, {2, 2, head_dim}, 0), type, 1);
    }
}

TEST(Rope, EveryVariantRoundsToTheNearest) {
  for (const RowsIsa* isa : rows_variants()) {
    std::vector<float> x;
    for (const std::uint32_t bits : {0x3F800000U, 0x3F808000U, 0x3F818000U, 0x3F808001U, 0x3F807FFFU, 0xBF818000U,
                                     0x7F7FFFFFU, 0x7F800000U, 0xFF800000U, 0x7F800001U, 0x00000001U, 0x80000000U,
                                     0x00008000U, 0x00018000U, 0x7FC00000U, 0x3F7FFFFFU, 0x40490FDBU})
      x.push_back(std::bit_cast<float>(bits));
    std::vector<std::uint16_t> out(x.size(), 0xDEAD);
    isa->rope({.x = x.data(), .dim = static_cast<std::int64_t>(x.size()), .out = out.data(), .bf16 = true});
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(out[i], to_bf16(x[i]).bits) << isa->name << " at " << i;
  }
}

TEST(Rope, QueriesInPlaceEqualApart) {
  for (const std::int64_t head_dim : {2, 12, 64, 80}) {
    const Problem p(70, {4, 2, head_dim}, 0);
    Result apart(p, DType::kF32);
    rope_split({.threads = 2}, apart.params(p, DType::kF32));
    Problem own = p;
    Result in_place(p, DType::kF32);
    RopeSplitParams params = in_place.params(own, DType::kF32);
    params.q = {own.qkv.data(), DType::kF32, p.rows, 4 * head_dim, p.width()};
    rope_split({.threads = 3}, params);
    for (std::int64_t r = 0; r < p.rows; ++r)
      for (std::int64_t i = 0; i < 4 * head_dim; ++i)
        ASSERT_EQ(own.qkv[static_cast<std::size_t>(r * p.width() + i)],
                  apart.q[static_cast<std::size_t>(r * 4 * head_dim + i)]);
    EXPECT_EQ(in_place.keys, apart.keys);
    EXPECT_EQ(in_place.values, apart.values);
  }
}

TEST(Rope, ManyRowsOnAnyThreads) {
  for (const int threads : {1, 2, 5}) expect_same(Problem(900, {2, 1, 80}, 0), DType::kBF16, threads);
  expect_same(Problem(0, {2, 1, 80}, 0), DType::kF32, 2);
}

}  // namespace
}  // namespace purekv
