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

/// Rows of several heads to [heads][rows][head_dim + pad], as a layer's cache scratch takes them.
struct Problem {
  std::int64_t rows, heads, head_dim, pad;
  std::vector<float> x;
  Tables tables;
  Problem(std::int64_t r, std::int64_t h, std::int64_t d, std::int64_t p)
      : rows(r), heads(h), head_dim(d), pad(p), x(random_floats(r * h * d, 3)), tables(r, d / 2) {}

  [[nodiscard]] RopeParams params(std::vector<std::byte>& out, DType type, bool rotate) const {
    return {.x = {x.data(), DType::kF32, rows, heads * head_dim, heads * head_dim},
            .cos = rotate ? tables.cos.data() : nullptr,
            .sin = rotate ? tables.sin.data() : nullptr,
            .heads = heads,
            .head_dim = head_dim,
            .out = out.data(),
            .out_dtype = type,
            .head_stride = rows * (head_dim + pad),
            .row_stride = head_dim + pad};
  }
  [[nodiscard]] std::vector<std::byte> poisoned(DType type) const {
    return std::vector<std::byte>(static_cast<std::size_t>(heads * rows * (head_dim + pad)) * size_of(type),
                                  std::byte{0xA5});
  }
};

float value_at(const std::vector<std::byte>& bytes, DType type, std::int64_t i) {
  return type == DType::kF32 ? load_element<float>(bytes.data(), i) : to_float(load_element<BFloat16>(bytes.data(), i));
}

void expect_same(const Problem& p, DType type, bool rotate, int threads) {
  std::vector<std::byte> got = p.poisoned(type);
  std::vector<std::byte> expected = p.poisoned(type);
  rope_store({.threads = threads}, p.params(got, type, rotate));
  rope_store_reference(p.params(expected, type, rotate));
  if (!rotate) {
    ASSERT_EQ(got, expected) << "head_dim " << p.head_dim;
    return;
  }
  // A value within float32's rounding of a bf16 tie may fall on either side: one step of 2^-8.
  const double relative = type == DType::kF32 ? 1e-6 : 1.0 / 128;
  for (std::int64_t i = 0; i < p.heads * p.rows * (p.head_dim + p.pad); ++i) {
    const double want = value_at(expected, type, i);
    if (i % (p.head_dim + p.pad) < p.head_dim)
      ASSERT_NEAR(value_at(got, type, i), want, relative * std::abs(want) + 1e-6) << "head_dim " << p.head_dim;
    else
      ASSERT_EQ(value_at(got, type, i), want) << "between rows";
  }
}

TEST(Rope, EveryHeadDimAndType) {
  for (const std::int64_t head_dim : {2, 4, 6, 8, 10, 14, 16, 18, 30, 32, 34, 64, 80, 128, 130, 256})
    for (const DType type : {DType::kF32, DType::kBF16})
      for (const bool rotate : {true, false}) expect_same(Problem(5, 3, head_dim, 2), type, rotate, 2);
  for (const std::int64_t odd : {1, 3, 15, 17}) expect_same(Problem(4, 2, odd, 0), DType::kBF16, false, 1);
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

TEST(Rope, InPlaceEqualsApart) {
  for (const std::int64_t head_dim : {2, 12, 64, 80}) {
    const Problem p(70, 4, head_dim, 0);
    std::vector<float> apart(p.x.size());
    std::vector<float> in_place = p.x;
    RopeParams params{.x = {p.x.data(), DType::kF32, 70, 4 * head_dim, 4 * head_dim},
                      .cos = p.tables.cos.data(),
                      .sin = p.tables.sin.data(),
                      .heads = 4,
                      .head_dim = head_dim,
                      .out = apart.data(),
                      .head_stride = head_dim,
                      .row_stride = 4 * head_dim};
    rope_store({.threads = 2}, params);
    params.x.data = params.out = in_place.data();
    rope_store({.threads = 3}, params);
    EXPECT_EQ(apart, in_place);
    EXPECT_NE(apart, p.x);
  }
}

TEST(Rope, ManyRowsOnAnyThreads) {
  for (const int threads : {1, 2, 5}) expect_same(Problem(900, 2, 80, 0), DType::kBF16, true, threads);
  expect_same(Problem(0, 2, 80, 0), DType::kF32, true, 2);
}

}  // namespace
}  // namespace purekv
