#include "kernels/decode_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "device/context.h"
#include "support/random.h"

namespace purekv {
namespace {

/// Some sequences over ragged float32 cache heads with room for one more row each.
struct Problem {
  HeadShape shape;
  std::int64_t sequences;
  std::vector<float> qkv, cos, sin, out;
  std::vector<std::vector<float>> k, v;
  std::vector<KvRows> rows;

  Problem(const HeadShape& s, const std::vector<std::int64_t>& held)
      : shape(s), sequences(static_cast<std::int64_t>(held.size()) / s.kv_heads) {
    qkv = random_floats(sequences * width(), 11);
    for (const float angle : random_floats(sequences * s.head_dim / 2, 12)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    out.assign(static_cast<std::size_t>(sequences * s.heads * s.head_dim), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t i = 0; i < held.size(); ++i) {
      k.push_back(random_floats((held[i] + 1) * s.head_dim, 100 + static_cast<unsigned>(i)));
      v.push_back(random_floats((held[i] + 1) * s.head_dim, 200 + static_cast<unsigned>(i)));
    }
    for (std::size_t i = 0; i < held.size(); ++i) rows.push_back({k[i].data(), v[i].data(), held[i]});
  }

  [[nodiscard]] std::int64_t width() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_dim; }

  void run(int threads) {
    const std::int64_t wide = shape.heads * shape.head_dim;
    decode_attention({.threads = threads}, {.shape = shape,
                                            .scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim)),
                                            .qkv = {qkv.data(), DType::kF32, sequences, width(), width()},
                                            .cos = cos.data(),
                                            .sin = sin.data(),
                                            .dtype = DType::kF32,
                                            .rows = rows.data(),
                                            .most_rows = 64,
                                            .out = {out.data(), DType::kF32, sequences, wide, wide},
                                            .work = {}});
  }

  /// Head `part` of the projection (queries, keys, values in a row) of a sequence, rotated where asked.
  [[nodiscard]] std::vector<double> head(std::int64_t sequence, std::int64_t part, bool rotated) const {
    const std::int64_t half = shape.head_dim / 2;
    const float* x = qkv.data() + sequence * width() + part * shape.head_dim;
    std::vector<double> r(x, x + shape.head_dim);
    for (std::int64_t j = 0; rotated && j < half; ++j) {
      const double c = cos[static_cast<std::size_t>(sequence * half + j)];
      const double s = sin[static_cast<std::size_t>(sequence * half + j)];
      r[static_cast<std::size_t>(j)] = x[j] * c - x[j + half] * s;
      r[static_cast<std::size_t>(j + half)] = x[j + half] * c + x[j] * s;
    }
    return r;
  }
};

double dot(const std::vector<double>& a, const float* b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void expect_right(const Problem& p) {
  const HeadShape& s = p.shape;
  for (std::int64_t sequence = 0; sequence < p.sequences; ++sequence)
    for (std::int64_t h = 0; h < s.heads; ++h) {
      const auto pair = static_cast<std::size_t>(sequence * s.kv_heads + h / s.group());
      const std::vector<double> q = p.head(sequence, h, true);
      std::vector<double> expected(q.size());
      double total = 0;
      for (std::int64_t i = 0; i <= p.rows[pair].rows; ++i) {
        const double weight =
            std::exp(dot(q, p.k[pair].data() + i * s.head_dim) / std::sqrt(static_cast<double>(s.head_dim)));
        total += weight;
        for (std::size_t j = 0; j < expected.size(); ++j)
          expected[j] += weight * p.v[pair][static_cast<std::size_t>(i * s.head_dim) + j];
      }
      for (std::size_t j = 0; j < expected.size(); ++j)
        EXPECT_NEAR(p.out[static_cast<std::size_t>((sequence * s.heads + h) * s.head_dim) + j], expected[j] / total,
                    1e-4);
    }
}

void expect_appended(const Problem& p) {
  const HeadShape& s = p.shape;
  for (std::size_t pair = 0; pair < p.rows.size(); ++pair) {
    const auto sequence = static_cast<std::int64_t>(pair) / s.kv_heads;
    const std::int64_t kv_head = static_cast<std::int64_t>(pair) % s.kv_heads;
    const std::vector<double> key = p.head(sequence, s.heads + kv_head, true);
    const std::vector<double> value = p.head(sequence, s.heads + s.kv_heads + kv_head, false);
    const auto at = static_cast<std::size_t>(p.rows[pair].rows * s.head_dim);
    for (std::size_t j = 0; j < key.size(); ++j) {
      EXPECT_NEAR(p.k[pair][at + j], key[j], 1e-6);
      EXPECT_EQ(p.v[pair][at + j], static_cast<float>(value[j]));
    }
  }
}

TEST(DecodeAttention, AppendsAndAttendsOverRaggedHeads) {
  Problem p({6, 2, 16}, {0, 37, 5, 1, 64, 12});
  p.run(2);
  expect_appended(p);
  expect_right(p);
  EXPECT_EQ(p.rows[1].rows, 37);  // the count is the caller's
}

TEST(DecodeAttention, OneHeadWithoutRows) {
  Problem p({1, 1, 2}, {0});
  p.run(1);
  expect_appended(p);
  expect_right(p);
}

TEST(DecodeAttention, ThreadsDoNotChangeBits) {
  Problem one({8, 4, 64}, {900, 30, 0, 511});
  Problem many = one;
  for (std::size_t i = 0; i < many.rows.size(); ++i)
    many.rows[i].k = many.k[i].data(), many.rows[i].v = many.v[i].data();
  one.run(1);
  many.run(4);
  EXPECT_EQ(one.out, many.out);
}

}  // namespace
}  // namespace purekv
