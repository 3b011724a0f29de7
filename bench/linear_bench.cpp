// Matrix products of the row-wise work: every variant this machine has, in turns with the FMA peak (many rows) or with
// the read bandwidth (few rows).
// Usage: linear_bench [threads] [repeats]

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "device/memory.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_tile.h"
#include "kernels/linear.h"
#include "peak.h"

namespace purekv {
namespace {

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

/// Values in [-1, 1) that differ from place to place.
void fill(const MatrixView& m) {
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < m.rows * m.stride; ++i) {
    state = state * 1664525U + 1013904223U;
    const float value = static_cast<float>(state >> 8U) * 0x1p-23F - 1.0F;
    if (m.dtype == DType::kF32)
      static_cast<float*>(m.data)[i] = value;
    else
      static_cast<BFloat16*>(m.data)[i] = to_bf16(value);
  }
}

struct Variant {
  const LinearIsa* isa;
  DType compute;
};

std::vector<Variant> variants() {
  std::vector<Variant> all = {{&kLinearGeneric, DType::kF32}};
  if (active_isa() >= Isa::kAvx2) all.push_back({&kLinearAvx2, DType::kF32});
  if (active_isa() >= Isa::kAvx512) all.push_back({&kLinearAvx512, DType::kF32});
  if (active_isa() >= Isa::kAvx512Bf16) all.push_back({&kLinearAvx512Bf16, DType::kBF16});
  if (active_isa() >= Isa::kAmx) all.push_back({&kLinearAmx, DType::kBF16});
  return all;
}

struct Shape {
  std::int64_t rows, in, out;
};

struct Operands {
  Matrix x, weight, out;
  Operands(const Context& context, const Shape& s, DType type)
      : x(context, DType::kF32, s.rows, s.in),
        weight(context, type, s.out, s.in),
        out(context, DType::kF32, s.rows, s.out) {
    fill(x.view());
    fill(weight.view());
    fill(out.view());
  }
  double run(const LinearIsa& isa, const Context& context) const {
    return seconds([&] {
      linear_on(isa, context, {.x = x.view(), .norm = {}, .w = {.weight = weight.view()}, .out = out.view()});
    });
  }
};

void many_rows(int threads, int repeats) {
  fmt::print("{:22} {:11} {:>9} {:>9} {:>9} {:>8}\n", "rows x in x out", "variant", "ms", "GFLOP/s", "FMA peak",
             "% of it");
  for (const Shape& s : {Shape{512, 896, 4864},
                         {512, 4864, 896},
                         {512, 896, 896},
                         {512, 896, 128},
                         {2048, 896, 4864},
                         {2048, 4864, 896},
                         {64, 896, 4864},
                         {16, 896, 4864}}) {
    const Operands operands({.threads = threads}, s, DType::kBF16);
    for (const Variant& variant : variants()) {
      if (variant.isa == &kLinearGeneric && s.rows > 512) continue;
      const Context context{.threads = threads, .compute = variant.compute};
      std::vector<double> times;
      std::vector<double> peaks;
      operands.run(*variant.isa, context);
      for (int i = 0; i < repeats; ++i) {
        peaks.push_back(fma_peak(threads));
        times.push_back(operands.run(*variant.isa, context));
      }
      const double rate = 2e-9 * static_cast<double>(s.rows * s.in * s.out) / median(times);
      fmt::print("{:22} {:11} {:9.2f} {:9.1f} {:9.1f} {:8.1f}\n", fmt::format("{} x {} x {}", s.rows, s.in, s.out),
                 variant.isa->name, 1e3 * median(times), rate, median(peaks), 100 * rate / median(peaks));
    }
  }
}

void few_rows(int threads, int repeats) {
  fmt::print("\n{:22} {:11} {:>5} {:>9} {:>9} {:>9} {:>8}\n", "rows x in x out", "variant", "type", "ms", "GB/s",
             "read", "% of it");
  for (const DType type : {DType::kBF16, DType::kF32})
    for (const Shape& s :
         {Shape{1, 896, 151936}, {1, 4864, 28000}, {2, 896, 151936}, {4, 896, 151936}, {8, 896, 151936}}) {
      const Operands operands({.threads = threads}, s, type);
      const std::int64_t bytes = s.in * s.out * static_cast<std::int64_t>(size_of(type));
      for (const Variant& variant : variants()) {
        const Context context{.threads = threads, .compute = variant.compute};
        if (type != DType::kBF16 && variant.compute == DType::kBF16) continue;
        std::vector<double> times;
        std::vector<double> reads;
        operands.run(*variant.isa, context);
        for (int i = 0; i < repeats; ++i) {
          reads.push_back(read_bandwidth(operands.weight.view().data, bytes, threads));
          times.push_back(operands.run(*variant.isa, context));
        }
        const double rate = 1e-9 * static_cast<double>(bytes) / median(times);
        fmt::print("{:22} {:11} {:>5} {:9.2f} {:9.1f} {:9.1f} {:8.1f}\n",
                   fmt::format("{} x {} x {}", s.rows, s.in, s.out), variant.isa->name, name_of(type),
                   1e3 * median(times), rate, median(reads), 100 * rate / median(reads));
      }
    }
}

}  // namespace
}  // namespace purekv

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : purekv::usable_cores();
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 9;
  purekv::many_rows(threads, repeats);
  purekv::few_rows(threads, repeats);
  return 0;
}
