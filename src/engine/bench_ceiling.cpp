#include "engine/bench_ceiling.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "device/transfer.h"
#include "kernels/linear.h"
#include "kernels/random_bits.h"

namespace purekv {
namespace {

/// A GPU wants a larger product to reach its rate, and more memory to leave its caches.
struct Sizes {
  std::int64_t rows, wide, bytes;
};

constexpr Sizes kCpu = {1024, 2048, 256LL << 20U};
constexpr Sizes kCuda = {8192, 8192, 2LL << 30U};
constexpr std::int64_t kBlock = 1LL << 20U;

Sizes sizes_of(const Context& context) { return context.backend == Backend::kCuda ? kCuda : kCpu; }

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

std::int64_t Ceiling::bytes(const Context& context) {
  const Sizes sizes = sizes_of(context);
  constexpr std::int64_t kElement = 4;
  return sizes.bytes + kElement * (2 * sizes.rows * sizes.wide + sizes.wide * sizes.wide);
}

Ceiling::Ceiling(const Context& context, DType weights)
    : context_(context),
      rows_(sizes_of(context).rows),
      wide_(sizes_of(context).wide),
      x_(context, context.activation(), rows_, wide_),
      weight_(context, weights, wide_, wide_),
      out_(context, context.activation(), rows_, wide_),
      stream_(context, sizes_of(context).bytes),
      timer_(context) {
  random_normal(context, x_.view(), 1);
  if (weights == DType::kFp8)
    random_bits(context, weight_.view(), 1.0F, 2);
  else
    random_normal(context, weight_.view(), 2);
  random_bits(context, {stream_.data(), DType::kBF16, 1, stream_.bytes() / 2, stream_.bytes() / 2}, 1.0F, 3);
  if (weights == DType::kFp8) scales_ = to_device(context, std::vector<float>(static_cast<std::size_t>(wide_), 1.0F));
  measure();
  gemm_.clear();
  copy_.clear();
}

double Ceiling::read_seconds() {
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(stream_.bytes() / kBlock));
  timer_.start();
  parallel_for(context_.threads, stream_.bytes() / kBlock, [&](std::int64_t i) {
    sums[static_cast<std::size_t>(i)] = sum_block(stream_.as<std::uint64_t>() + i * (kBlock / 8), kBlock / 8);
  });
  const double seconds = timer_.stop_ms() * 1e-3;
  // The sums are used, so that no compiler drops the reads.
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total != 0 ? seconds : 0;
}

double Ceiling::copy_seconds() {
  const std::int64_t half = stream_.bytes() / 2;
  timer_.start();
  copy_bytes(context_, stream_.as<std::byte>() + half, stream_.data(), half);
  return timer_.stop_ms() * 1e-3;
}

void Ceiling::measure() {
  timer_.start();
  linear(
      context_,
      {.x = x_.view(), .norm = {}, .w = {.weight = weight_.view(), .scales = scales_.as<float>()}, .out = out_.view()});
  const auto wide = static_cast<double>(wide_);
  gemm_.push_back(2.0 * static_cast<double>(rows_) * wide * wide / timer_.stop_ms() * 1e-9);
  // A GPU's copy reads half of the memory and writes the other half; both count.
  const double seconds = context_.backend == Backend::kCuda ? copy_seconds() : read_seconds();
  copy_.push_back(static_cast<double>(stream_.bytes()) / seconds * 1e-9);
}

double Ceiling::gemm_tflops() const { return median(gemm_); }
double Ceiling::copy_gbps() const { return median(copy_); }

}  // namespace purekv
