#include "engine/bench_ceiling.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "base/parallel.h"
#include "kernels/linear.h"

namespace purekv {
namespace {

constexpr std::int64_t kSide = 1024;  ///< rows of the product; its weight is kWide x kWide
constexpr std::int64_t kWide = 2048;
constexpr std::int64_t kStream = 256LL << 20U;  ///< bytes; past every cache of a host
constexpr std::int64_t kBlock = 1LL << 20U;

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Small values that differ, so that no unit takes a short cut.
void fill(const MatrixView& m) {
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const float value = static_cast<float>((r * 31 + c * 17) % 251) / 251.0F - 0.5F;
      if (m.dtype == DType::kF32)
        m.row<float>(r)[c] = value;
      else
        m.row<BFloat16>(r)[c] = to_bf16(value);
    }
}

std::uint64_t sum_block(const std::uint64_t* data, std::int64_t count) {
  std::uint64_t sum[8] = {};
  for (std::int64_t i = 0; i + 8 <= count; i += 8)
    for (std::int64_t j = 0; j < 8; ++j) sum[j] += data[i + j];
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

Ceiling::Ceiling(const Context& context, DType weights)
    : context_(context),
      x_(context, DType::kF32, kSide, kWide),
      weight_(context, weights, kWide, kWide),
      out_(context, DType::kF32, kSide, kWide),
      stream_(context, kStream) {
  fill(x_.view());
  fill(weight_.view());
  std::memset(stream_.data(), 1, static_cast<std::size_t>(kStream));
  measure();
  gemm_.clear();
  read_.clear();
}

void Ceiling::measure() {
  const double product =
      seconds([&] { linear(context_, {.x = x_.view(), .weight = weight_.view(), .out = out_.view()}); });
  gemm_.push_back(2.0 * kSide * kWide * kWide / product * 1e-12);
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(kStream / kBlock));
  const double read = seconds([&] {
    parallel_for(context_.threads, kStream / kBlock, [&](std::int64_t i) {
      sums[static_cast<std::size_t>(i)] = sum_block(stream_.as<std::uint64_t>() + i * (kBlock / 8), kBlock / 8);
    });
  });
  // The sums are used, so that no compiler drops the reads.
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  read_.push_back(total != 0 ? static_cast<double>(kStream) / read * 1e-9 : 0);
}

double Ceiling::gemm_tflops() const { return median(gemm_); }
double Ceiling::copy_gbps() const { return median(read_); }

}  // namespace purekv
