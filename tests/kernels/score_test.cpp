#include "kernels/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/value_norm.h"
#include "support/random.h"
#include "support/tables.h"

namespace purekv {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

struct Layer {
  HeadShape shape;
  std::int64_t rows;
  std::vector<float> q, k, v;

  Layer(const HeadShape& s, std::int64_t l, unsigned seed)
      : shape(s),
        rows(l),
        q(random_floats(l * s.heads * s.head_dim, seed)),
        k(random_floats(l * s.kv_heads * s.head_dim, seed + 1)),
        v(random_floats(l * s.kv_heads * s.head_dim, seed + 2)) {}

  [[nodiscard]] ConstMatrixView queries() const {
    const std::int64_t width = shape.heads * shape.head_dim;
    return {q.data(), DType::kF32, rows, width, width};
  }
  [[nodiscard]] KvView kv() const { return kv_view(shape, rows, k, v); }
  [[nodiscard]] float scale() const { return 1.0F / std::sqrt(static_cast<float>(shape.head_dim)); }
  [[nodiscard]] double logit(std::int64_t head, std::int64_t i, std::int64_t j) const {
    double dot = 0;
    for (std::int64_t t = 0; t < shape.head_dim; ++t)
      dot += static_cast<double>(q[static_cast<std::size_t>((i * shape.heads + head) * shape.head_dim + t)]) *
             k[static_cast<std::size_t>((head / shape.group() * rows + j) * shape.head_dim + t)];
    return dot / std::sqrt(static_cast<double>(shape.head_dim));
  }
  /// Softmax of row i over keys [first, i].
  [[nodiscard]] std::vector<double> softmax(std::int64_t head, std::int64_t i, std::int64_t first) const {
    std::vector<double> p;
    double total = 0;
    for (std::int64_t j = first; j <= i; ++j) {
      p.push_back(std::exp(logit(head, i, j)));
      total += p.back();
    }
    for (double& x : p) x /= total;
    return p;
  }
};

double window_reference(const Layer& layer, const WindowScoreParams& p, std::int64_t kv_head, std::int64_t j) {
  double result = 0;
  for (std::int64_t g = 0; g < layer.shape.group(); ++g) {
    double column = 0;
    for (std::int64_t i = layer.rows - p.window; i < layer.rows; ++i) {
      const double x = layer.softmax(kv_head * layer.shape.group() + g, i, 0)[static_cast<std::size_t>(j)];
      column = p.row_max ? std::max(column, x) : column + x;
    }
    result = p.group_max ? std::max(result, column) : result + column / static_cast<double>(layer.shape.group());
  }
  return result;
}

TEST(WindowScore, EveryReductionAndWindow) {
  for (const std::int64_t rows : {2, 20, 90})
    for (const std::int64_t window : {1, 7, 19, 64})
      for (const int reductions : {0, 1, 2, 3}) {
        if (window >= rows) continue;
        const Layer layer({.heads = 6, .kv_heads = 2, .head_dim = 10}, rows, static_cast<unsigned>(rows + window));
        std::vector<float> out(static_cast<std::size_t>(2 * (rows - window)), kPoison);
        WindowScoreParams p{.shape = layer.shape,
                            .scale = layer.scale(),
                            .q = layer.queries(),
                            .kv = layer.kv(),
                            .window = window,
                            .row_max = (reductions & 1) != 0,
                            .group_max = (reductions & 2) != 0,
                            .out = out.data()};
        window_score({.threads = 2}, p);
        const std::vector<float> two = out;
        window_score({.threads = 1}, p);
        EXPECT_EQ(out, two);
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t j = 0; j < rows - window; ++j)
            ASSERT_NEAR(out[static_cast<std::size_t>(h * (rows - window) + j)], window_reference(layer, p, h, j), 2e-6)
                << rows << ' ' << window << ' ' << reductions;
      }
}

/// How much a row's log-sum-exp is lowered, as by a pattern that hides keys of the row's own frame.
class FrameScore : public testing::TestWithParam<double> {};

TEST_P(FrameScore, LocalAndSelfOnEveryEdge) {
  unsigned seed = 50;
  for (const NamedTable& edge : edge_tables()) {
    const FrameTable& table = edge.table;
    const Layer layer({.heads = 4, .kv_heads = 2, .head_dim = 8}, table.rows, ++seed);
    std::vector<float> lse(static_cast<std::size_t>(4 * table.rows));
    for (std::int64_t h = 0; h < 4; ++h)
      for (std::int64_t i = 0; i < table.rows; ++i) {
        double total = 0;
        for (std::int64_t j = 0; j <= i; ++j) total += std::exp(layer.logit(h, i, j));
        lse[static_cast<std::size_t>(h * table.rows + i)] = static_cast<float>(std::log(total) - GetParam());
      }
    std::vector<float> local(static_cast<std::size_t>(2 * table.rows), kPoison);
    std::vector<float> self = local;
    frame_score({.threads = 2}, {.shape = layer.shape,
                                 .scale = layer.scale(),
                                 .table = &table,
                                 .q = layer.queries(),
                                 .kv = layer.kv(),
                                 .lse = lse.data(),
                                 .local = local.data(),
                                 .self = self.data()});
    for (std::int64_t h = 0; h < 2; ++h) {
      std::vector<double> want_local(static_cast<std::size_t>(table.rows), 0.0);
      std::vector<double> want_self = want_local;
      for (const FrameSpan& frame : table.frames)
        for (std::int64_t i = frame.start; i < frame.start + frame.rows(); ++i)
          for (std::int64_t g = 2 * h; g < 2 * h + 2; ++g) {
            const std::vector<double> p = layer.softmax(g, i, frame.start);
            for (std::int64_t j = frame.start; j <= i; ++j) {
              auto& a = want_local[static_cast<std::size_t>(j)];
              auto& b = want_self[static_cast<std::size_t>(j)];
              a = std::max(a, p[static_cast<std::size_t>(j - frame.start)]);
              b = std::max(b, std::exp(layer.logit(g, i, j) - lse[static_cast<std::size_t>(g * table.rows + i)]));
            }
          }
      for (std::int64_t j = 0; j < table.rows; ++j) {
        const auto at = static_cast<std::size_t>(h * table.rows + j);
        ASSERT_NEAR(local[at], want_local[static_cast<std::size_t>(j)], 2e-6) << edge.name << ' ' << j;
        const double want = want_self[static_cast<std::size_t>(j)];
        ASSERT_NEAR(self[at], want, 2e-6 + 1e-5 * want) << edge.name << ' ' << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Hidden, FrameScore, testing::Values(0.0, 3.0, 20.0));

/// || W_o^h (v_j - v_before) || of a head, in double precision.
double out_norm(const Layer& layer, const std::vector<float>& w_o, std::int64_t hidden, std::int64_t head,
                std::int64_t j, std::int64_t before) {
  const std::int64_t d = layer.shape.head_dim;
  const std::int64_t base = head / layer.shape.group() * layer.rows;
  double square = 0;
  for (std::int64_t o = 0; o < hidden; ++o) {
    double dot = 0;
    for (std::int64_t t = 0; t < d; ++t) {
      double v = layer.v[static_cast<std::size_t>((base + j) * d + t)];
      if (before >= 0) v -= layer.v[static_cast<std::size_t>((base + before) * d + t)];
      dot += w_o[static_cast<std::size_t>((o * layer.shape.heads + head) * d + t)] * v;
    }
    square += dot * dot;
  }
  return std::sqrt(square);
}

TEST(ValueNorm, L2OutAndNovelty) {
  const FrameTable table = make_table(3, {{3, 2, 3}, {1, 4, 2}}, 2, 4);
  for (const std::int64_t head_dim : {1, 12, 16, 33})
    for (const std::int64_t hidden : {1, 40, 300}) {
      const Layer layer({.heads = 6, .kv_heads = 2, .head_dim = head_dim}, table.rows, 9);
      const std::vector<float> w_o = random_floats(hidden * 6 * head_dim, 4);
      std::vector<float> grams(static_cast<std::size_t>(6 * head_dim * head_dim), kPoison);
      gram({.threads = 2}, {.shape = layer.shape,
                            .w_o = {w_o.data(), DType::kF32, hidden, 6 * head_dim, 6 * head_dim},
                            .gram = grams.data()});
      std::vector<float> l2(static_cast<std::size_t>(2 * table.rows), kPoison);
      std::vector<float> out = l2;
      std::vector<float> nov = l2;
      value_norm({.threads = 2}, {.shape = layer.shape,
                                  .kv = layer.kv(),
                                  .gram = grams.data(),
                                  .table = &table,
                                  .l2 = l2.data(),
                                  .out = out.data(),
                                  .nov = nov.data()});
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t j = 0; j < table.rows; ++j) {
          double square = 0;
          for (std::int64_t t = 0; t < head_dim; ++t) {
            const double v = layer.v[static_cast<std::size_t>((h * table.rows + j) * head_dim + t)];
            square += v * v;
          }
          double want_out = 0;
          double want_nov = 0;
          const std::int32_t before = table.previous_cell(static_cast<std::int32_t>(j));
          for (std::int64_t g = 0; g < 3; ++g) {
            want_out += out_norm(layer, w_o, hidden, h * 3 + g, j, -1) / 3;
            want_nov += out_norm(layer, w_o, hidden, h * 3 + g, j, before) / 3;
          }
          if (table.is_text(static_cast<std::int32_t>(j))) want_nov = 0;
          const auto at = static_cast<std::size_t>(h * table.rows + j);
          ASSERT_NEAR(l2[at], std::sqrt(square), 1e-5 * (1 + std::sqrt(square)));
          ASSERT_NEAR(out[at], want_out, 1e-4 * (1 + want_out)) << head_dim << ' ' << hidden << ' ' << j;
          ASSERT_NEAR(nov[at], want_nov, 1e-4 * (1 + want_nov)) << head_dim << ' ' << hidden << ' ' << j;
        }
    }
}

}  // namespace
}  // namespace purekv
