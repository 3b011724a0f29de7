#pragma once

#include <cstdint>

#include "kernels/choose_token.h"

/// Shared by the greedy and the sampled choice.
namespace purekv::cuda {

constexpr int kChooseThreads = 256;
constexpr int kChooseParts = 64;  ///< blocks a sequence that scan its logits

/// What one block found in its part of the logits.
struct ChoosePart {
  unsigned long long best = 0;  ///< choice_key() of the best logit; no real key is 0
  int bad = 0x7FFFFFFF;         ///< first id whose logit is not finite
  int unused = 0;
};

/// Order-preserving: larger floats have larger bits; both zeros are equal.
__device__ inline std::uint32_t ordered_bits(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

__device__ inline float from_ordered_bits(std::uint32_t bits) {
  return __uint_as_float((bits & 0x80000000U) != 0 ? bits & 0x7FFFFFFFU : ~bits);
}

/// The larger logit has the larger key, of equals the lower id.
__device__ inline unsigned long long choice_key(float x, int id) {
  return static_cast<unsigned long long>(ordered_bits(x)) << 32 | static_cast<std::uint32_t>(~id);
}

/// Logit after the repetition penalty.
__device__ inline float penalised(float x, const std::uint8_t* seen, std::int64_t at, float penalty) {
  if (seen == nullptr || seen[at] == 0) return x;
  return x > 0 ? x / penalty : x * penalty;
}

/// Over the warp, in lane 0.
__device__ inline ChoosePart join_lanes(ChoosePart part) {
  for (int step = 16; step > 0; step /= 2) {
    part.best = max(part.best, __shfl_down_sync(~0U, part.best, step));
    part.bad = min(part.bad, __shfl_down_sync(~0U, part.bad, step));
  }
  return part;
}

/// Joins the threads of a block (kChooseThreads); thread 0 writes.
__device__ inline void join_block(ChoosePart part, ChoosePart* to) {
  __shared__ ChoosePart found[kChooseThreads / 32];
  part = join_lanes(part);
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  part = join_lanes(threadIdx.x < kChooseThreads / 32 ? found[threadIdx.x] : ChoosePart{});
  if (threadIdx.x == 0) *to = part;
}

/// Temperature above 0: sorts a sequence's logits and draws.
void choose_sampled(const Context& context, const ChooseTokenParams& params);

}  // namespace purekv::cuda
