#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_tile.h"
#include "kernels/cpu/rows_reference.h"
#include "support/random.h"

namespace purekv {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

struct Variant {
  const LinearIsa* isa;
  Isa needs;
};

/// Those of the closed table that this machine has; the others are named.
std::vector<Variant> variants() {
  std::vector<Variant> found;
  for (const Variant& v : {Variant{&kLinearGeneric, Isa::kGeneric}, Variant{&kLinearAvx2, Isa::kAvx2},
                           Variant{&kLinearAvx512, Isa::kAvx512}, Variant{&kLinearAvx512Bf16, Isa::kAvx512Bf16},
                           Variant{&kLinearAmx, Isa::kAmx}}) {
    if (active_isa() >= v.needs) found.push_back(v);
  }
  return found;
}

bool needs_pairs(const LinearIsa& isa) { return isa.element == 2; }

struct Shape {
  std::int64_t rows, in, out;
};

/// What varies beside the shape.
struct Case {
  DType weight = DType::kF32;
  DType compute = DType::kF32;
  bool bias = false, accumulate = false;
  std::int64_t pad = 0;    ///< elements between rows of every operand
  std::int64_t shift = 0;  ///< bytes before the weight
};

/// Half-precision bits of a value that such a type holds exactly.
std::uint16_t half_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const int exponent = static_cast<int>((bits >> 23U) & 0xFFU) - 112;
  const auto sign = static_cast<std::uint16_t>((bits >> 16U) & 0x8000U);
  if (exponent <= 0) return sign;
  return static_cast<std::uint16_t>(sign | (exponent << 10) | ((bits >> 13U) & 0x3FFU));
}

struct Problem {
  Shape shape;
  Case what;
  std::vector<float> x, bias, out;
  std::vector<std::byte> weight;

  Problem(const Shape& s, const Case& c, unsigned seed) : shape(s), what(c) {
    x = random_floats(std::max<std::int64_t>(1, s.rows) * (s.in + c.pad), seed);
    bias = random_floats(s.out, seed + 1);
    out = c.accumulate ? random_floats((s.rows + 1) * (s.out + c.pad), seed + 2)
                       : std::vector<float>(static_cast<std::size_t>((s.rows + 1) * (s.out + c.pad)), kPoison);
    const std::vector<float> w = random_floats(s.out * (s.in + c.pad), seed + 3);
    const std::size_t size = size_of(c.weight);
    // Exactly as long as the rows: a read past the last value is one that the sanitizers see.
    const auto used = static_cast<std::size_t>((s.out - 1) * (s.in + c.pad) + s.in);
    weight.resize(static_cast<std::size_t>(c.shift) + used * size);
    for (std::size_t i = 0; i < used; ++i) {
      std::byte* to = weight.data() + c.shift + i * size;
      const std::uint16_t bits = c.weight == DType::kBF16 ? to_bf16(w[i]).bits : half_bits(w[i]);
      if (c.weight == DType::kF32)
        std::memcpy(to, &w[i], size);
      else
        std::memcpy(to, &bits, size);
    }
  }

  [[nodiscard]] LinearParams params(std::vector<float>& result) const {
    return {.x = {x.data(), DType::kF32, shape.rows, shape.in, shape.in + what.pad},
            .norm = {},
            .w = {.weight = {weight.data() + what.shift, what.weight, shape.out, shape.in, shape.in + what.pad},
                  .bias = what.bias ? bias.data() : nullptr},
            .out = {result.data(), DType::kF32, shape.rows, shape.out, shape.out + what.pad},
            .accumulate = what.accumulate};
  }
  [[nodiscard]] Context context(int threads) const { return {.threads = threads, .compute = what.compute}; }
  [[nodiscard]] bool is_bf16() const { return what.weight == DType::kBF16 && what.compute == DType::kBF16; }

  [[nodiscard]] std::vector<float> run(const LinearIsa& isa, int threads) const {
    std::vector<float> result = out;
    linear_on(isa, context(threads), params(result));
    return result;
  }
  [[nodiscard]] std::vector<float> reference() const {
    std::vector<float> result = out;
    linear_reference(context(1), params(result));
    return result;
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Float32 sums of n products of normal values: the partial sums grow with sqrt(n), and so does the walk of their
/// roundings. What lies between rows stays untouched.
void expect_close(const Problem& p, const std::vector<float>& got, const std::vector<float>& expected,
                  const std::string& what) {
  const auto tolerance = static_cast<float>(4e-6 + 2.5e-7 * static_cast<double>(p.shape.in));
  const std::int64_t stride = p.shape.out + p.what.pad;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const bool inside = at / stride < p.shape.rows && at % stride < p.shape.out;
    if (inside)
      ASSERT_NEAR(got[i], expected[i], tolerance) << what << " row " << at / stride << " column " << at % stride;
    else
      ASSERT_TRUE(std::memcmp(&got[i], &p.out[i], sizeof(float)) == 0) << what << " wrote outside, at " << i;
  }
}

std::string describe(const LinearIsa& isa, const Shape& s, const Case& c) {
  return std::string(isa.name) + ' ' + std::string(name_of(c.weight)) + " compute " + std::string(name_of(c.compute)) +
         ' ' + std::to_string(s.rows) + 'x' + std::to_string(s.in) + 'x' + std::to_string(s.out);
}

void check(const Shape& shape, const Case& c, unsigned seed) {
  const Problem problem(shape, c, seed);
  const std::vector<float> expected = problem.reference();
  for (const Variant& v : variants()) {
    if (needs_pairs(*v.isa) && !problem.is_bf16()) continue;
    const std::string what = describe(*v.isa, shape, c);
    const std::vector<float> one = problem.run(*v.isa, 1);
    expect_close(problem, one, expected, what);
    EXPECT_TRUE(same_bits(one, problem.run(*v.isa, 2))) << what << ": two threads";
    EXPECT_TRUE(same_bits(one, problem.run(*v.isa, 5))) << what << ": five threads";
  }
}

TEST(Linear, SaysWhichVariantsRun) {
  for (const Variant& v : {Variant{&kLinearGeneric, Isa::kGeneric}, Variant{&kLinearAvx2, Isa::kAvx2},
                           Variant{&kLinearAvx512, Isa::kAvx512}, Variant{&kLinearAvx512Bf16, Isa::kAvx512Bf16},
                           Variant{&kLinearAmx, Isa::kAmx}})
    std::printf("linear %-11s %s\n", v.isa->name,
                active_isa() >= v.needs ? "tested" : "skipped: this machine lacks it");
  EXPECT_FALSE(variants().empty());
}

TEST(Linear, RowsAroundEveryTile) {
  unsigned seed = 1;
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 24, 25, 31, 32, 33, 63, 65, 200, 389})
    for (const DType compute : {DType::kF32, DType::kBF16})
      check({rows, 70, 50}, {.weight = DType::kBF16, .compute = compute}, ++seed);
}

TEST(Linear, ColumnsAroundEveryPanel) {
  unsigned seed = 100;
  for (const std::int64_t out : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 300})
    for (const std::int64_t rows : {1, 6, 20})
      for (const DType compute : {DType::kF32, DType::kBF16})
        check({rows, 40, out}, {.weight = DType::kBF16, .compute = compute, .bias = true}, ++seed);
}

TEST(Linear, DepthsAroundEverySlice) {
  unsigned seed = 300;
  for (const std::int64_t in :
       {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 92, 191, 192, 193, 255, 256, 257, 511, 512, 513, 1025, 3420})
    for (const std::int64_t rows : {1, 5, 14})
      for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
        check({rows, in, 19}, {.weight = type, .compute = DType::kBF16, .accumulate = true}, ++seed);
}

TEST(Linear, EveryTypeStrideAndByteOffset) {
  unsigned seed = 600;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (const DType compute : {DType::kF32, DType::kBF16})
      for (const int flags : {0, 1, 2, 3})
        for (const std::int64_t shift : {0, 1, 2, 3, 7})
          for (const std::int64_t rows : {1, 3, 15}) {
            const Case c{.weight = type,
                         .compute = compute,
                         .bias = (flags & 1) != 0,
                         .accumulate = (flags & 2) != 0,
                         .pad = shift == 3 ? 5 : 0,
                         .shift = shift};
            check({rows, 61, 37}, c, ++seed);
          }
}

TEST(Linear, LargeCallsInPasses) {
  // Rows enough for several passes over the packed rows, columns for several work items.
  check({3000, 6000, 3}, {.weight = DType::kBF16, .compute = DType::kBF16}, 1000);
  check({130, 600, 700}, {.weight = DType::kBF16, .compute = DType::kF32, .bias = true}, 1001);
  check({130, 600, 700}, {.weight = DType::kBF16, .compute = DType::kBF16, .accumulate = true}, 1002);
}

TEST(Linear, ARowIsTheSameInEveryCall) {
  // Beyond rounding: the rows of a large call against the same rows alone.
  const Problem all({40, 500, 33}, {.weight = DType::kBF16, .compute = DType::kBF16}, 7);
  for (const Variant& v : variants()) {
    const std::vector<float> many = all.run(*v.isa, 2);
    for (const std::int64_t count : {1, 8, 9, 23}) {
      Problem some = all;
      some.shape.rows = count;
      const std::vector<float> few = some.run(*v.isa, 2);
      for (std::size_t i = 0; i < static_cast<std::size_t>(count * 33); ++i) ASSERT_NEAR(few[i], many[i], 5e-5) << i;
    }
  }
}

TEST(Linear, SpecialValuesPassThrough) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::int64_t rows : {1, 10})
    for (const float special : {infinity, -infinity, kPoison}) {
      std::vector<float> x(static_cast<std::size_t>(rows * 8), 0.0F);
      x[3] = special;
      const std::vector<float> w(24, 2.0F);
      std::vector<float> out(static_cast<std::size_t>(rows * 3), 7.0F);
      linear({.threads = 1}, {.x = {x.data(), DType::kF32, rows, 8, 8},
                              .norm = {},
                              .w = {.weight = {w.data(), DType::kF32, 3, 8, 8}},
                              .out = {out.data(), DType::kF32, rows, 3, 3}});
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(special) ? std::isnan(out[i]) : out[i] == special);
      for (std::size_t i = 3; i < out.size(); ++i) EXPECT_EQ(out[i], 0.0F);
    }
}

TEST(Linear, RoundingKeepsNotANumber) {
  // A NaN whose payload sits in the low half only must not become an infinity.
  const float odd = std::bit_cast<float>(0x7F800001U);
  for (const std::int64_t rows : {1, 10}) {
    std::vector<float> x(static_cast<std::size_t>(rows), odd);
    const std::vector<std::uint16_t> w(2, to_bf16(1.0F).bits);
    std::vector<float> out(static_cast<std::size_t>(rows * 2), 0.0F);
    linear({.threads = 1, .compute = DType::kBF16}, {.x = {x.data(), DType::kF32, rows, 1, 1},
                                                     .norm = {},
                                                     .w = {.weight = {w.data(), DType::kBF16, 2, 1, 1}},
                                                     .out = {out.data(), DType::kF32, rows, 2, 2}});
    for (const float value : out) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(Linear, NoRowsNoWork) {
  const std::vector<float> w(6, 1.0F);
  std::vector<float> out(3, 7.0F);
  linear({.threads = 2}, {.x = {nullptr, DType::kF32, 0, 2, 2},
                          .norm = {},
                          .w = {.weight = {w.data(), DType::kF32, 3, 2, 2}},
                          .out = {out.data(), DType::kF32, 0, 3, 3}});
  EXPECT_EQ(out, std::vector<float>(3, 7.0F));
}

}  // namespace
}  // namespace purekv
