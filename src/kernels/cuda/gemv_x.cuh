#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/mma.cuh"

/// The tokens of a few-row product on their way into shared memory.
namespace purekv::cuda {

constexpr int kGemvWarps = 8;
constexpr int kGemvThreads = 32 * kGemvWarps;
constexpr int kGemvTokens = 8;  ///< of a token tile: the n side of one matrix instruction
constexpr int kGemvMostTokens = 16;

struct GemvParams {
  const void* x = nullptr;  ///< [tokens, in] float32 or bf16
  std::int64_t x_stride = 0;
  bool x_wide = false;          ///< float32
  const float* norm = nullptr;  ///< [in]; null: none
  float eps = 0;
  int tokens = 0, in = 0, out_rows = 0;
  const std::byte* weight[2] = {};  ///< the second: up, where gated
  std::int64_t weight_stride = 0;   ///< bytes
  const float* bias[2] = {};
  const float* scales[2] = {};  ///< fp8
  void* out = nullptr;
  std::int64_t out_stride = 0;
  bool out_wide = false, accumulate = false;
};

/// Rows of x in shared memory as bf16, zero behind the end.
struct StagedX {
  std::byte* rows;
  int pitch;                     ///< bytes
  int places;                    ///< elements of a row with its zeros
  float (*squares)[kGemvWarps];  ///< [tokens][warps]
  float* factor;                 ///< [tokens] of the finished sums: 1 / rms, which is left to the end of the product
};

__device__ inline float4 load_x(const GemvParams& p, int token, int i) {
  if (p.x_wide) return *reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + token * p.x_stride + i);
  const auto pair = *reinterpret_cast<const uint2*>(static_cast<const std::uint16_t*>(p.x) + token * p.x_stride + i);
  const float2 a = unpack_bf16(pair.x);
  const float2 b = unpack_bf16(pair.y);
  return {a.x, a.y, b.x, b.y};
}

/// Converts tokens [first, first + kTokens), times the norm's weight. All loads of kTogether places are under way at
/// once: one after the other, their latency was a sixth of a small product's time.
template <int kTokens, int kTogether>
__device__ void convert_x(const GemvParams& p, const StagedX& s, int first) {
  float squares[kTokens] = {};
  for (int from = 4 * static_cast<int>(threadIdx.x); from < s.places; from += 4 * kGemvThreads * kTogether) {
    float4 w[kTogether];
    float4 v[kTogether][kTokens];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int i = from + 4 * kGemvThreads * u;
      w[u] = p.norm != nullptr && i < p.in ? *reinterpret_cast<const float4*>(p.norm + i) : float4{1, 1, 1, 1};
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
        v[u][t] = i < p.in && first + t < p.tokens ? load_x(p, first + t, i) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int i = from + 4 * kGemvThreads * u;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float4 x = v[u][t];
        squares[t] += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        if (i < s.places && first + t < p.tokens)
          *reinterpret_cast<uint2*>(s.rows + (first + t) * s.pitch + 2 * i) = {pack_bf16(x.x * w[u].x, x.y * w[u].y),
                                                                               pack_bf16(x.z * w[u].z, x.w * w[u].w)};
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (first + t >= p.tokens) break;
    for (int lane = 16; lane > 0; lane /= 2) squares[t] += __shfl_xor_sync(~0U, squares[t], lane);
    if (threadIdx.x % 32 == 0) s.squares[first + t][threadIdx.x / 32] = squares[t];
  }
}

/// Tokens that are bf16 already.
__device__ inline void copy_x(const GemvParams& p, const StagedX& s) {
  for (int token = 0; token < p.tokens; ++token) {
    const std::byte* from = static_cast<const std::byte*>(p.x) + token * p.x_stride * 2;
    for (int i = 16 * static_cast<int>(threadIdx.x); i < 2 * s.places; i += 16 * kGemvThreads) {
      const bool there = i < 2 * p.in;
      cp_async_16(shared_address(s.rows + token * s.pitch + i), from + (there ? i : 0), there ? 16 : 0);
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
}

/// Ends with a barrier; `factor` is there after the next one.
__device__ inline void stage_x(const GemvParams& p, const StagedX& s) {
  if (!p.x_wide && p.norm == nullptr) {
    copy_x(p, s);
  } else if (p.tokens == 1) {
    convert_x<1, 4>(p, s, 0);
  } else {
    for (int first = 0; first < p.tokens; first += kGemvTokens) convert_x<kGemvTokens, 2>(p, s, first);
  }
  __syncthreads();
  const int token = static_cast<int>(threadIdx.x);
  if (token >= p.tokens) return;
  float squares = 0;
  if (p.norm != nullptr)
    for (int w = 0; w < kGemvWarps; ++w) squares += s.squares[token][w];
  s.factor[token] = p.norm == nullptr ? 1.0F : 1.0F / sqrtf(squares / static_cast<float>(p.in) + p.eps);
}

}  // namespace purekv::cuda
