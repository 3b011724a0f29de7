#include "kernels/random_bits.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/cuda/ops.h"
#include "kernels/random_word.h"

namespace purekv {

void random_bits(const Context& context, const MatrixView& out, float magnitude, std::uint64_t seed) {
  PUREKV_ASSERT(out.stride == out.cols || out.rows <= 1);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::random_bits(context, out, magnitude, seed);
  constexpr std::int64_t kBlock = 1LL << 20U;  // bytes a thread fills at once
  const std::int64_t bytes = out.rows * out.cols * static_cast<std::int64_t>(size_of(out.dtype));
  const BitPattern pattern = bit_pattern(out.dtype, std::ilogb(magnitude));
  auto* data = static_cast<std::byte*>(out.data);
  parallel_for(context.threads, (bytes + kBlock - 1) / kBlock, [&](std::int64_t block) {
    const std::int64_t end = std::min(bytes, (block + 1) * kBlock);
    for (std::int64_t at = block * kBlock; at < end; at += 8) {
      const std::uint64_t word = random_word(seed, static_cast<std::uint64_t>(at / 8), pattern);
      std::memcpy(data + at, &word, static_cast<std::size_t>(std::min<std::int64_t>(8, end - at)));
    }
  });
}

void random_normal(const Context& context, const MatrixView& out, std::uint64_t seed) {
  PUREKV_ASSERT(out.stride == out.cols || out.rows <= 1);
  PUREKV_ASSERT(out.dtype == DType::kF32 || out.dtype == DType::kBF16);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::random_normal(context, out, seed);
  constexpr std::int64_t kBlock = 1LL << 14U;  // values a thread makes at once
  const std::int64_t count = out.rows * out.cols;
  parallel_for(context.threads, (count + kBlock - 1) / kBlock, [&](std::int64_t block) {
    for (std::int64_t i = block * kBlock; i < std::min(count, (block + 1) * kBlock); ++i) {
      const UniformPair u = uniform_pair(seed, static_cast<std::uint64_t>(i));
      const float value = std::sqrt(-2.0F * std::log(u.first)) * std::cos(kTwoPi * u.second);
      if (out.dtype == DType::kF32)
        static_cast<float*>(out.data)[i] = value;
      else
        static_cast<BFloat16*>(out.data)[i] = to_bf16(value);
    }
  });
}

}  // namespace purekv
