#include "kernels/rope_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/random.h"

namespace purekv {
namespace {

/// Queries, keys and values of `rows` rows, poisoned.
struct Parts {
  std::vector<float> q, keys, values;
  HeadShape shape;
  std::int64_t rows;

  Parts(const HeadShape& s, std::int64_t r)
      : q(static_cast<std::size_t>(r * s.heads * s.head_dim), -7.0F),
        keys(static_cast<std::size_t>(r * s.kv_heads * s.head_dim), -7.0F),
        values(keys),
        shape(s),
        rows(r) {}

  RopeSplitParams params(const std::vector<float>& cos, const std::vector<float>& sin) {
    const std::int64_t wide = shape.heads * shape.head_dim;
    return {.shape = shape,
            .cos = cos.data(),
            .sin = sin.data(),
            .q = {q.data(), DType::kF32, rows, wide, wide},
            .keys = keys.data(),
            .values = values.data(),
            .kv_dtype = DType::kF32,
            .head_stride = rows * shape.head_dim,
            .row_stride = shape.head_dim};
  }
};

/// rms_norm, product, bias and rotation in one call are those of the operations it is made of.
TEST(RopeLinear, IsItsParts) {
  constexpr std::int64_t kIn = 40;
  for (const std::int64_t rows : {0, 1, 3, 65}) {
    const HeadShape shape{4, 2, 16};
    const std::int64_t cols = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    const std::vector<float> x = random_floats(rows * kIn, 1);
    const std::vector<float> weight = random_floats(cols * kIn, 2);
    const std::vector<float> bias = random_floats(cols, 3);
    const std::vector<float> norm = random_floats(kIn, 4);
    const std::vector<float> cos = random_floats(rows * shape.head_dim / 2, 5);
    const std::vector<float> sin = random_floats(rows * shape.head_dim / 2, 6);
    std::vector<float> normed(x.size());
    std::vector<float> qkv(static_cast<std::size_t>(rows * cols), -7.0F);
    const Context context{.threads = 2};
    ASSERT_TRUE(rope_linear_stores(context, shape, rows, kIn));
    const ConstMatrixView in(x.data(), DType::kF32, rows, kIn, kIn);
    const NormOperand operand{
        .weight = norm.data(), .eps = 1e-5F, .work = {normed.data(), DType::kF32, rows, kIn, kIn}};
    const LinearOperand w{.weight = {weight.data(), DType::kF32, cols, kIn, kIn}, .bias = bias.data()};
    const MatrixView product{qkv.data(), DType::kF32, rows, cols, cols};

    Parts apart(shape, rows);
    RopeSplitParams split = apart.params(cos, sin);
    split.qkv = product;
    linear(context, {.x = in, .norm = operand, .w = w, .out = product});
    rope_split(context, split);
    std::fill(qkv.begin(), qkv.end(), -7.0F);
    Parts together(shape, rows);
    rope_linear(context, {.x = in, .norm = operand, .w = w, .work = product, .to = together.params(cos, sin)});
    EXPECT_EQ(together.q, apart.q) << rows;
    EXPECT_EQ(together.keys, apart.keys) << rows;
    EXPECT_EQ(together.values, apart.values) << rows;
  }
}

}  // namespace
}  // namespace purekv
