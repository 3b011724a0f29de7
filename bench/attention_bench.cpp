// Attention of one layer under every pattern, in turns with dense attention: what a sparse pattern costs beside
// its share of pairs, and how near the products come to what the units can do.
// Usage: attention_bench [frames] [cells] [heads] [kv_heads] [head_dim] [threads]

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "device/memory.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention_tile.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(const auto& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

std::vector<float> random_floats(std::int64_t count) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = normal(random);
  return x;
}

/// Ceiling: the micro-kernel of the tile on operands that stay in the first-level cache, GFLOP/s.
double product_ceiling(int threads) {
  constexpr std::int64_t kDim = 64;
  constexpr std::int64_t kRepeats = 200000;
  const double time = seconds([&] {
    parallel_for(threads, threads, [](std::int64_t) {
      std::vector<float> a(kDim * kDim, 0.5F);
      std::vector<float> gram(kDim * kDim, 0.0F);
      for (std::int64_t i = 0; i < kRepeats / 10; ++i)
        attention_isa().gram(a.data(), a.data(), kDim, kDim, gram.data());
    });
  });
  return 2e-9 * kDim * kDim * kDim * (kRepeats / 10.0) * threads / time;
}

struct Shape {
  std::int32_t frames = 64, cells = 128, heads = 14, kv_heads = 2, head_dim = 64;
  int threads = usable_cores();
};

struct Layer {
  HeadShape shape;
  std::int64_t rows;
  std::vector<float> q, k, v, out;
  KvView kv;

  Layer(const Shape& s, std::int64_t l)
      : shape{s.heads, s.kv_heads, s.head_dim},
        rows(l),
        q(random_floats(l * s.heads * s.head_dim)),
        k(random_floats(l * s.kv_heads * s.head_dim)),
        v(random_floats(l * s.kv_heads * s.head_dim)),
        out(q.size()) {
    for (std::int64_t h = 0; h < s.kv_heads; ++h)
      kv.heads.push_back({k.data() + h * l * s.head_dim, v.data() + h * l * s.head_dim, l, s.head_dim});
  }

  void attend(const AttentionPlan& plan, int threads) {
    const std::int64_t width = shape.heads * shape.head_dim;
    attention({.threads = threads}, {.shape = shape,
                                     .scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim)),
                                     .q = {q.data(), DType::kF32, rows, width, width},
                                     .cached = {},
                                     .fresh = kv,
                                     .plan = &plan,
                                     .out = {out.data(), DType::kF32, rows, width, width}});
  }
};

void run(const Shape& s) {
  std::vector<FrameSpan> frames;
  for (std::int32_t f = 0; f < s.frames; ++f) frames.push_back({16 + f * s.cells, 0, f, 1, s.cells});
  const FrameTable table = make_frame_table(16 + s.frames * s.cells + 24, frames);
  Layer layer(s, table.rows);
  const AttentionPlan dense = make_plan(table, {});
  const double flops = 4.0 * static_cast<double>(s.heads) * s.head_dim;
  fmt::print("{} frames x {} cells, {} rows, {}/{} heads of {}, {} threads\n", s.frames, s.cells, table.rows, s.heads,
             s.kv_heads, s.head_dim, s.threads);
  fmt::print("{:18} {:>9} {:>9} {:>10} {:>12} {:>10}\n", "pattern", "ms", "pairs %", "time %", "time/pairs", "GFLOP/s");
  const std::vector<std::pair<std::string, PlanRequest>> patterns = {
      {"dense", {}},
      {"spatial-temporal", {.pattern = Pattern::kSpatialTemporal}},
      {"spatial", {.pattern = Pattern::kSpatial}},
      {"temporal", {.pattern = Pattern::kTemporal}},
      {"local 1024", {.pattern = Pattern::kLocal, .local_window = 1024}},
      {"atrous 8", {.pattern = Pattern::kAtrous, .atrous_rate = 8}}};
  for (const auto& [name, request] : patterns) {
    const AttentionPlan plan = make_plan(table, request);
    std::vector<double> full;
    std::vector<double> sparse;
    for (int turn = 0; turn < 4; ++turn) {
      const bool dense_first = turn % 2 == 0;
      if (dense_first) full.push_back(seconds([&] { layer.attend(dense, s.threads); }));
      sparse.push_back(seconds([&] { layer.attend(plan, s.threads); }));
      if (!dense_first) full.push_back(seconds([&] { layer.attend(dense, s.threads); }));
    }
    const double share = static_cast<double>(plan.pairs) / static_cast<double>(dense.pairs);
    const double ratio = median(sparse) / median(full);
    fmt::print("{:18} {:9.1f} {:9.1f} {:10.1f} {:12.2f} {:10.1f}\n", name, 1e3 * median(sparse), 100 * share,
               100 * ratio, ratio / share, 1e-9 * flops * static_cast<double>(plan.pairs) / median(sparse));
  }
  fmt::print("micro-kernel in cache: {:.1f} GFLOP/s\n", product_ceiling(s.threads));
}

}  // namespace
}  // namespace purekv

int main(int argc, char** argv) {
  purekv::Shape shape;
  const auto number = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  shape.frames = number(1, shape.frames);
  shape.cells = number(2, shape.cells);
  shape.heads = number(3, shape.heads);
  shape.kv_heads = number(4, shape.kv_heads);
  shape.head_dim = number(5, shape.head_dim);
  shape.threads = number(6, shape.threads);
  purekv::run(shape);
  return 0;
}
