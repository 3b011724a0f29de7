#include "kernels/random_bits.h"

#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/random_word.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void random_kernel(std::uint8_t* out, std::int64_t bytes, std::uint64_t seed, BitPattern pattern) {
  const std::int64_t words = bytes / 8;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i < words; i += step)
    reinterpret_cast<std::uint64_t*>(out)[i] = random_word(seed, static_cast<std::uint64_t>(i), pattern);
  if (i != words) return;  // one thread meets the end exactly: it writes what is less than a word
  const std::uint64_t last = random_word(seed, static_cast<std::uint64_t>(words), pattern);
  for (std::int64_t at = words * 8; at < bytes; ++at)
    out[at] = static_cast<std::uint8_t>(last >> (8 * static_cast<unsigned>(at - words * 8)));
}

template <class T>
__global__ void normal_kernel(T* out, std::int64_t count, std::uint64_t seed) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const UniformPair u = uniform_pair(seed, static_cast<std::uint64_t>(i));
    out[i] = static_cast<T>(sqrtf(-2.0F * logf(u.first)) * cosf(kTwoPi * u.second));
  }
}

}  // namespace

void random_bits(const Context& context, const MatrixView& out, float magnitude, std::uint64_t seed) {
  const std::int64_t bytes = out.rows * out.cols * static_cast<std::int64_t>(size_of(out.dtype));
  if (bytes == 0) return;
  const auto blocks = static_cast<unsigned>(8 * context.cuda->sms);
  random_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(static_cast<std::uint8_t*>(out.data), bytes, seed,
                                                             bit_pattern(out.dtype, std::ilogb(magnitude)));
  check_launch("drawing random bits");
}

void random_normal(const Context& context, const MatrixView& out, std::uint64_t seed) {
  const std::int64_t count = out.rows * out.cols;
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(8 * context.cuda->sms);
  if (out.dtype == DType::kF32)
    normal_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(static_cast<float*>(out.data), count, seed);
  else
    normal_kernel<<<blocks, kThreads, 0, stream_of(context)>>>(static_cast<__nv_bfloat16*>(out.data), count, seed);
  check_launch("drawing normal values");
}

}  // namespace purekv::cuda
