#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/gemv_x.cuh"
#include "kernels/cuda/mma.cuh"

/// out[token][row] = sum over k of x[token][k] weight[row][k], for few tokens.
///
/// Bytes: the weight once (2 in out in bf16), x once a block or once 32 rows; 2 tokens in out FLOPs, 8 tokens' worth
/// where there are fewer. The weights are the 16-row operand of m16n8k16, the tokens its 8 columns. A dot product does
/// not care for the order of k, so lane (g, t) takes 16 contiguous bytes of rows g and g + 8 as they lie in memory,
/// and the matching bytes of x: no weight is shuffled. Each thread reads back only what it copied itself, so the ring
/// in shared memory is a deep extension of its registers and needs no barrier.
///
/// A block owns a run of weight rows, equal to within one row over the blocks, and walks them in tiles of up to 16.
/// Its 8 warps interleave over k by 128 bytes; their sums are added in a fixed order. 80 KiB of ring keep 64 KiB in
/// flight a multiprocessor, and leave room for the next kernel's block. On an H100 that reads 3.1 TB/s: gate and up
/// (18944 x 3584) 2.92, the head 3.03, a 4608 x 3584 product 2.3 TB/s with one token; with 8 tokens 2.85, 2.94
/// and 2.07.
namespace purekv::cuda {

enum class GemvWeight { kBf16, kFp8 };

constexpr int kGemvChunk = 128;  ///< bytes of a row that a warp takes at once
constexpr int kGemvStep = kGemvWarps * kGemvChunk;

/// How an instance is laid out in shared memory: ring, x where it is staged, sums of two tiles, row statistics.
template <GemvWeight kType, bool kGated, int kTokenTiles, bool kStreamX>
struct GemvShape {
  static constexpr int kElement = kType == GemvWeight::kFp8 ? 1 : 2;
  static constexpr int kWiden = 2 / kElement;  ///< bytes of x beside one byte of weight
  /// x passes the ring once for 32 rows, unless that is too much of it.
  static constexpr int kRowTiles = kStreamX && kTokenTiles * kWiden <= 2 ? 2 : 1;
  static constexpr int kRows = 16 * kRowTiles;       ///< of a tile
  static constexpr int kUnits = kGated ? 8 : kRows;  ///< weight rows of each matrix in a tile
  /// 16-byte copies a thread for each 64 bytes of a row: weights, then x.
  static constexpr int kWeightPieces = 2 * kRowTiles;
  static constexpr int kHalfPieces = kWeightPieces + (kStreamX ? kTokenTiles * kWiden : 0);
  static constexpr int kStages = kStreamX ? 3 : kTokenTiles * kWiden <= 2 ? 5 : 4;
  static constexpr int kStageBytes = 2 * kHalfPieces * kGemvThreads * 16;
  static constexpr int kSumPitch = kRows + 4;  ///< 4: the tokens of a quad fall into different banks
  static constexpr int kXPad = kType == GemvWeight::kFp8 ? 16 : 64;  ///< puts neighbouring tokens into different banks

  __host__ __device__ static constexpr int steps(int in) { return (in * kElement + kGemvStep - 1) / kGemvStep; }
  __host__ __device__ static constexpr int x_pitch(int in) { return steps(in) * kGemvStep * kWiden + kXPad; }
  __host__ __device__ static constexpr int x_bytes(int in, int tokens) { return kStreamX ? 0 : tokens * x_pitch(in); }
  /// Floats that the warps leave of one tile.
  __host__ __device__ static constexpr int sums(int tokens) { return kGemvWarps * tokens * kSumPitch; }
  static constexpr std::size_t shared_bytes(int in, int tokens) {
    const int floats = 2 * sums(tokens) + kGemvMostTokens * (kGemvWarps + 1);
    return static_cast<std::size_t>(kStages * kStageBytes + x_bytes(in, tokens) + 4 * floats);
  }
};

/// Two e4m3 values as bf16, exact; NaN stays NaN.
__device__ inline std::uint32_t widen_e4m3(std::uint32_t pair) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
  const float2 f = __half22float2(__half2(h));
  return pack_bf16(f.x, f.y);
}

/// d += the products of 16 bytes of rows g and g + 8 with the tokens' 8 elements at the same places.
__device__ inline void multiply_bf16(float (&d)[4], const uint4& low, const uint4& high, const uint4& x) {
  mma_bf16(d, {low.x, high.x, low.y, high.y}, x.x, x.y);
  mma_bf16(d, {low.z, high.z, low.w, high.w}, x.z, x.w);
}

/// The same of 4 bytes and 4 elements.
__device__ inline void multiply_e4m3(float (&d)[4], std::uint32_t low, std::uint32_t high, std::uint32_t x0,
                                     std::uint32_t x1) {
  mma_bf16(d, {widen_e4m3(low & 0xFFFFU), widen_e4m3(high & 0xFFFFU), widen_e4m3(low >> 16), widen_e4m3(high >> 16)},
           x0, x1);
}

/// Where a thread's next copies come from. Tiles follow each other without a pause in the ring.
template <class Shape, bool kGated, int kTokenTiles>
struct GemvLoader {
  static constexpr std::uint32_t kPiece = kGemvThreads * 16;
  const GemvParams& p;
  const int first, count, tiles;  ///< rows of the block
  int tile = 0, step = 0, x_left, x_step = 0;
  const std::byte* source[Shape::kWeightPieces];

  __device__ GemvLoader(const GemvParams& params, int first_row, int row_count)
      : p(params),
        first(first_row),
        count(row_count),
        tiles((row_count + Shape::kUnits - 1) / Shape::kUnits),
        x_left(tiles * Shape::steps(params.in)) {
    start_tile();
  }

  __device__ int tile_first(int i) const {
    return first + static_cast<int>(static_cast<std::int64_t>(count) * i / tiles);
  }

  __device__ void start_tile() {
    const int lane_row = static_cast<int>(threadIdx.x % 32 / 4);
    if (tile >= tiles) return;
    const int begin = tile_first(tile);
    const int rows = tile_first(tile + 1) - begin;
    for (int r = 0; r < Shape::kWeightPieces; ++r) {
      const int row = kGated ? lane_row : lane_row + 8 * r;
      const std::byte* matrix = p.weight[kGated ? r : 0];
      source[r] = row < rows ? matrix + (begin + row) * p.weight_stride : nullptr;
    }
  }

  /// Byte of a weight row that this thread's part of a step begins with; 64 bytes further its second half.
  __device__ static int place(int in_step) {
    return in_step * kGemvStep + static_cast<int>(threadIdx.x / 32) * kGemvChunk +
           16 * static_cast<int>(threadIdx.x % 4);
  }

  __device__ void load_weights(std::uint32_t slot) {
    if (tile >= tiles) return;
    for (int half = 0; half < 2; ++half)
      for (int r = 0; r < Shape::kWeightPieces; ++r) {
        const int at = place(step) + 64 * half;
        const bool there = at < p.in * Shape::kElement && source[r] != nullptr;
        const std::uint32_t to = slot + (half * Shape::kHalfPieces + r) * kPiece;
        cp_async_16(to, there ? source[r] + at : p.weight[0], there ? 16 : 0);
      }
    if (++step < Shape::steps(p.in)) return;
    step = 0;
    ++tile;
    start_tile();
  }

  /// The tokens' part of a stage; the same at every tile.
  __device__ void load_x(std::uint32_t slot) {
    if (x_left == 0) return;
    --x_left;
    for (int half = 0; half < 2; ++half)
      for (int n = 0; n < kTokenTiles * Shape::kWiden; ++n) {
        const int token = min(p.tokens - 1, n / Shape::kWiden * kGemvTokens + static_cast<int>(threadIdx.x % 32 / 4));
        const int at = (place(x_step) + 64 * half) * Shape::kWiden + 16 * (n % Shape::kWiden);
        const std::byte* from = static_cast<const std::byte*>(p.x) + token * p.x_stride * 2;
        const bool there = at < 2 * p.in;
        const std::uint32_t to = slot + (half * Shape::kHalfPieces + Shape::kWeightPieces + n) * kPiece;
        cp_async_16(to, from + (there ? at : 0), there ? 16 : 0);
      }
    x_step = x_step + 1 == Shape::steps(p.in) ? 0 : x_step + 1;
  }
};

/// A row's finished sum of one token: the warps' parts in order, then scales and bias.
template <class Shape>
__device__ float finish_sum(const GemvParams& p, const float* sums, int token, int tile_row, int which, int row,
                            float factor) {
  float sum = 0;
  for (int w = 0; w < kGemvWarps; ++w) sum += sums[(w * p.tokens + token) * Shape::kSumPitch + tile_row];
  sum *= factor;
  if (p.scales[which] != nullptr) sum *= p.scales[which][row];
  return p.bias[which] == nullptr ? sum : sum + p.bias[which][row];
}

__device__ inline void store_sum(const GemvParams& p, int token, int row, float value) {
  const std::int64_t at = token * p.out_stride + row;
  if (p.out_wide) {
    float* out = static_cast<float*>(p.out) + at;
    *out = p.accumulate ? *out + value : value;
  } else {
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(p.out) + at;
    *out = __float2bfloat16_rn(p.accumulate ? __bfloat162float(*out) + value : value);
  }
}

template <GemvWeight kType, bool kGated, int kTokenTiles, bool kStreamX>
__global__ void __launch_bounds__(kGemvThreads) gemv_kernel(const GemvParams p) {
  using Shape = GemvShape<kType, kGated, kTokenTiles, kStreamX>;
  extern __shared__ __align__(128) std::byte memory[];
  std::byte* x = memory + Shape::kStages * Shape::kStageBytes;
  auto* sums = reinterpret_cast<float*>(x + Shape::x_bytes(p.in, p.tokens));
  float* numbers = sums + 2 * Shape::sums(p.tokens);
  const StagedX staged{.rows = x,
                       .pitch = Shape::x_pitch(p.in),
                       .places = Shape::steps(p.in) * kGemvStep / Shape::kElement,
                       .squares = reinterpret_cast<float(*)[kGemvWarps]>(numbers),
                       .factor = numbers + kGemvMostTokens * kGemvWarps};

  const auto row_of = [&](unsigned block) {
    return static_cast<int>(static_cast<std::int64_t>(p.out_rows) * block / gridDim.x);
  };
  const int first = row_of(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int g = static_cast<int>(threadIdx.x % 32 / 4);
  const int t = static_cast<int>(threadIdx.x % 4);
  const std::uint32_t own = shared_address(memory) + threadIdx.x * 16;
  const auto slot = [&](int stage) { return own + static_cast<std::uint32_t>(stage * Shape::kStageBytes); };

  // x is the previous kernel's work; the first stages of weights are on their way before it has ended.
  GemvLoader<Shape, kGated, kTokenTiles> loader(p, first, row_of(blockIdx.x + 1) - first);
  for (int s = 0; s < Shape::kStages - 1; ++s) {
    loader.load_weights(slot(s));
    if (!kStreamX) cp_async_commit();
  }
  prefetch_weights(p.norm, p.in * 4);
  wait_for_previous();
  let_next_start();
  if constexpr (kStreamX) {
    for (int s = 0; s < Shape::kStages - 1; ++s) {
      loader.load_x(slot(s));
      cp_async_commit();
    }
  } else {
    stage_x(p, staged);
  }

  const std::byte* token_x[kTokenTiles];
  for (int n = 0; n < kTokenTiles; ++n) token_x[n] = x + min(p.tokens - 1, n * kGemvTokens + g) * staged.pitch;
  int stage = 0;
  for (int tile = 0; tile < loader.tiles; ++tile) {
    float d[Shape::kRowTiles][kTokenTiles][4] = {};
    for (int step = 0; step < Shape::steps(p.in); ++step) {
      cp_async_wait<Shape::kStages - 2>();
      // The slot that is filled now was read one step ago, and those values have been used.
      const std::uint32_t free = slot(stage == 0 ? Shape::kStages - 1 : stage - 1);
      loader.load_weights(free);
      if (kStreamX) loader.load_x(free);
      cp_async_commit();
      const std::byte* here = memory + stage * Shape::kStageBytes + threadIdx.x * 16;
      stage = stage + 1 == Shape::kStages ? 0 : stage + 1;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto piece = [&](int i) {
          return *reinterpret_cast<const uint4*>(here + (half * Shape::kHalfPieces + i) * kGemvThreads * 16);
        };
        const int at = (step * kGemvStep + warp * kGemvChunk + 64 * half + 16 * t) * Shape::kWiden;
        const auto x_piece = [&](int n, int i) {
          return kStreamX ? piece(Shape::kWeightPieces + n * Shape::kWiden + i)
                          : *reinterpret_cast<const uint4*>(token_x[n] + at + 16 * i);
        };
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const uint4 x0 = x_piece(n, 0);
#pragma unroll
          for (int m = 0; m < Shape::kRowTiles; ++m) {
            const uint4 low = piece(2 * m);
            const uint4 high = piece(2 * m + 1);
            if constexpr (kType == GemvWeight::kBf16) {
              multiply_bf16(d[m][n], low, high, x0);
            } else {
              const uint4 x1 = x_piece(n, 1);
              multiply_e4m3(d[m][n], low.x, high.x, x0.x, x0.y);
              multiply_e4m3(d[m][n], low.y, high.y, x0.z, x0.w);
              multiply_e4m3(d[m][n], low.z, high.z, x1.x, x1.y);
              multiply_e4m3(d[m][n], low.w, high.w, x1.z, x1.w);
            }
          }
        }
      }
    }
    // Two sets of sums in turn: one barrier a tile is enough.
    float* tile_sums = sums + tile % 2 * Shape::sums(p.tokens);
    for (int n = 0; n < kTokenTiles; ++n)
      for (int i = 0; i < 4; ++i) {
        const int token = n * kGemvTokens + 2 * t + i % 2;
        float* to = tile_sums + (warp * p.tokens + token) * Shape::kSumPitch + g + 8 * (i / 2);
        for (int m = 0; m < Shape::kRowTiles; ++m)
          if (token < p.tokens) to[16 * m] = d[m][n][i];
      }
    __syncthreads();
    const int begin = loader.tile_first(tile);
    const int rows = loader.tile_first(tile + 1) - begin;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kUnits * p.tokens; i += kGemvThreads) {
      const int token = i / Shape::kUnits;
      const int r = i % Shape::kUnits;
      if (r >= rows) continue;
      const float factor = kStreamX ? 1.0F : staged.factor[token];
      float value = finish_sum<Shape>(p, tile_sums, token, r, 0, begin + r, factor);
      if constexpr (kGated) {
        const float up = finish_sum<Shape>(p, tile_sums, token, r + 8, 1, begin + r, factor);
        value = value / (1.0F + expf(-value)) * up;
      }
      store_sum(p, token, begin + r, value);
    }
  }
}

}  // namespace purekv::cuda
