#pragma once

#include <cuda_bf16.h>

#include <bit>
#include <cstdint>
#include <numbers>

#include "kernels/cuda/attention_sm80_math.cuh"

/// Softmax attention of 128 packed rows by tiles of 64 keys, mma.sync m16n8k16.
///
/// FLOPs: 4 * 128 * 64 * kDim a key tile. Bytes: 128 * kDim * 4 of q and out once; 256 * kDim of K and V a key tile,
/// from the second-level cache where neighbours share them: 128 FLOP a byte. Shared memory: (128 + 2 * 64) * (kDim + 8)
/// * 2 bytes, 68 KiB at 128, and 4 KiB of lists: two blocks an SM. K of the next tile arrives during P V, V of this one
/// during Q K^T, so one buffer of each is enough.
namespace purekv::cuda::sm80 {

/// Copies 16 bytes of a row; zeros beyond head_dim and where there is no row. A place without a row still has to name
/// an address that could be formed.
__device__ inline void copy_unit(bf16* to, const bf16* row, int unit, int head_dim, bool exists) {
  const bool inside = exists && unit * 8 < head_dim;
  cp_async_16(shared_address(to), inside ? row + unit * 8 : row, inside ? 16 : 0);
}

/// The same for rows at any address, one element after the other.
__device__ inline void copy_elements(bf16* to, const bf16* row, int unit, int head_dim, bool exists) {
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
    const int column = unit * 8 + i;
    to[i] = exists && column < head_dim ? row[column] : __float2bfloat16(0.0F);
  }
}

/// Queries of the packed rows.
template <int kDim>
__device__ inline void load_queries(const AttentionArgs& args, const LineMemory& line, bf16* shared) {
  using T = AttentionTraits<kDim>;
  constexpr int kUnits = kDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kUnits; i += T::kThreads) {
    const int r = i / kUnits;
    const int unit = i % kUnits;
    const std::int32_t row = line.row[r];
    const bf16* from = args.q + max(row, 0) * args.q_stride + static_cast<std::int64_t>(line.head[r]) * args.head_dim;
    bf16* to = shared + r * T::kPitch + unit * 8;
    if (args.q_vectors)
      copy_unit(to, from, unit, args.head_dim, row >= 0);
    else
      copy_elements(to, from, unit, args.head_dim, row >= 0);
  }
}

/// Keys (or values, kValues) of a tile.
template <int kDim, bool kValues>
__device__ inline void load_keys(const AttentionArgs& args, const LineMemory& line, const KeyTile& tile,
                                 const HeadKeys& head, bf16* shared) {
  using T = AttentionTraits<kDim>;
  constexpr int kUnits = kDim / 8;
  constexpr int kLanes = std::bit_ceil(static_cast<unsigned>(kUnits));  // threads a row; some idle at 80 and 96
  constexpr int kStep = T::kThreads / kLanes;                           // rows at a time
  const auto thread = static_cast<int>(threadIdx.x);
  const int first = thread / kLanes;
  const int unit = thread % kLanes;
  const std::uint32_t at = shared_address(shared + first * T::kPitch + unit * 8);
  if (!tile.mixed) {
    const KeyRows& rows = head.source[tile.cached ? 1 : 0];
    const std::int64_t pitch = tile.step * rows.stride;
    const bf16* from = (kValues ? rows.v : rows.k) + tile.key * rows.stride + first * pitch + unit * 8;
    const std::uint32_t bytes = unit * 8 < args.head_dim ? 16 : 0;
#pragma unroll
    for (int n = 0; n < kTileKeys / kStep; ++n) {
      if (unit < kUnits) cp_async_16(at + n * kStep * T::kPitch * 2, from, bytes);
      from += kStep * pitch;
    }
    return;
  }
  const bf16* const* places = kValues ? line.v : line.k;
  if (args.key_vectors) {
#pragma unroll 4
    for (int i = thread; i < kTileKeys * kUnits; i += T::kThreads) {
      const bf16* row = places[i / kUnits];
      copy_unit(shared + i / kUnits * T::kPitch + i % kUnits * 8, row == nullptr ? args.q : row, i % kUnits,
                args.head_dim, row != nullptr);
    }
    return;
  }
#pragma unroll 1
  for (int i = thread; i < kTileKeys * kUnits; i += T::kThreads) {
    const bf16* row = places[i / kUnits];
    copy_elements(shared + i / kUnits * T::kPitch + i % kUnits * 8, row, i % kUnits, args.head_dim, row != nullptr);
  }
}

/// Slots [begin, end) of the runs in shared memory.
template <int kDim, int kRowBlocks>
__device__ inline void walk_slots(const AttentionArgs& args, const HeadKeys& head, std::int32_t begin, std::int32_t end,
                                  LineMemory& line, bf16* shared, RowSums<kDim, kRowBlocks>& rows) {
  using T = AttentionTraits<kDim>;
  const int warp_row = static_cast<int>(threadIdx.x / 32) * 16 * kRowBlocks;
  const bf16* q = shared + warp_row * T::kPitch;
  bf16* k = shared + kTileRows * T::kPitch;
  bf16* v = k + kTileKeys * T::kPitch;
  const auto fetch_keys = [&](const KeyTile& tile) {
    if (tile.masked || tile.mixed) write_slots(args, head, tile, end, line);
    if (tile.mixed) __syncthreads();
    load_keys<kDim, false>(args, line, tile, head, k);
    cp_async_commit();
  };
  KeyTile tile = find_tile(line, args.key_vectors, begin, end, 0);
  fetch_keys(tile);
  while (true) {
    cp_async_wait<0>();
    __syncthreads();  // K and the slots' list are there, and nobody reads the last tile's V
    load_keys<kDim, true>(args, line, tile, head, v);
    cp_async_commit();
    float logits[kRowBlocks][kTileKeys / 8][4];
    // Warps without rows compute too: a branch around the products cost 10 % (349 against 314 TFLOP/s, dense, H100).
    multiply_keys<kDim, kRowBlocks>(q, k, logits);
    if (tile.masked) mask_logits<kRowBlocks>(line, line.row + warp_row, logits);
    cp_async_wait<0>();
    __syncthreads();  // V is there, and nobody reads K or the list
    const bool more = tile.slot + kTileKeys < end;
    if (more) {
      tile = next_tile(line, args.key_vectors, tile, end);
      fetch_keys(tile);
    }
    raise_tops<kDim, kRowBlocks>(args.scale_log2, logits, rows);
    multiply_values<kDim, kRowBlocks>(args.scale_log2, v, logits, rows);
    if (!more) return;
  }
}

/// Sums as they are, for merge_partials.
template <int kDim, int kRowBlocks>
__device__ inline void store_partial(const AttentionArgs& args, const TileItem& item, int head, int warp_row,
                                     const RowSums<kDim, kRowBlocks>& rows) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = warp_row + b * 16 + half * 8 + lane / 4;
      if (r >= item.count * args.group) continue;
      const std::int64_t at = static_cast<std::int64_t>(head) * args.partial_rows + item.partial + r;
      if (lane % 4 == 0) args.partial_sum[at] = {rows.top[b][half], rows.sum[b][half]};
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const int column = n * 8 + lane % 4 * 2;  // head_dim is even: both columns or none
        if (column < args.head_dim)
          *reinterpret_cast<float2*>(args.partial_out + at * args.head_dim + column) = {rows.out[b][n][half * 2],
                                                                                        rows.out[b][n][half * 2 + 1]};
      }
    }
}

/// Divides, and hands the rows to the warp's own queries' place in shared memory, from where they leave in rows of
/// 16-byte units: a fragment alone would write 16 bytes of a row here and there.
template <int kDim, int kRowBlocks>
__device__ inline void store_rows(const AttentionArgs& args, const LineMemory& line, int warp_row, bf16* shared,
                                  const RowSums<kDim, kRowBlocks>& rows) {
  constexpr int kPitch = AttentionTraits<kDim>::kPitch;
  constexpr int kUnits = kDim / 8;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  bf16* staged = shared + warp_row * kPitch;
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = b * 16 + half * 8 + lane / 4;
      const float sum = rows.sum[b][half];
      const float inverse = sum == 0 ? 0 : 1 / sum;  // a row that sees nothing: 0, and log 0 = -inf below
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
        *reinterpret_cast<std::uint32_t*>(staged + r * kPitch + n * 8 + lane % 4 * 2) =
            pack_bf16(rows.out[b][n][half * 2] * inverse, rows.out[b][n][half * 2 + 1] * inverse);
      const std::int32_t row = line.row[warp_row + r];
      if (args.lse != nullptr && lane % 4 == 0 && row >= 0) {
        args.lse[line.head[warp_row + r] * args.rows + row] =
            (finite_top(rows.top[b][half]) + log2f(sum)) * std::numbers::ln2_v<float>;
      }
    }
  __syncwarp();
  for (int i = lane; i < kRowBlocks * 16 * kUnits; i += 32) {
    const int r = i / kUnits;
    const int column = i % kUnits * 8;
    const std::int32_t row = line.row[warp_row + r];
    if (row < 0 || column >= args.head_dim) continue;
    bf16* to = args.out + row * args.out_stride + static_cast<std::int64_t>(line.head[warp_row + r]) * args.head_dim;
    const bf16* from = staged + r * kPitch + column;
    if (args.out_vectors)
      *reinterpret_cast<uint4*>(to + column) = *reinterpret_cast<const uint4*>(from);
    else
      for (int c = 0; c < min(8, args.head_dim - column); ++c) to[column + c] = from[c];
  }
}

/// One item for one KV head a block: blockIdx.x = item * heads + head, so that the heads of a tile run side by side.
template <int kDim>
__global__ void __launch_bounds__(AttentionTraits<kDim>::kThreads, AttentionTraits<kDim>::kBlocksPerSm)
    attend_tiles(const __grid_constant__ AttentionArgs args) {
  using T = AttentionTraits<kDim>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ LineMemory line;
  bf16* shared = reinterpret_cast<bf16*>(memory);
  const auto thread = static_cast<int>(threadIdx.x);
  const int local_head = static_cast<int>(blockIdx.x) % args.heads;
  const int kv_head = args.first_head + local_head;
  const TileItem& item = line.item;
  const HeadKeys& head = args.keys[local_head];
  if (thread < kTileRows) {
    const TileItem own = args.items[static_cast<int>(blockIdx.x) / args.heads];
    const int token = thread / args.group;
    line.row[thread] = token < own.count ? own.first + token * own.step : -1;
    line.head[thread] = kv_head * args.group + thread % args.group;
    if (thread == 0) line.item = own;
  }
  __syncthreads();
  RowSums<kDim, T::kRowBlocks> rows;
#pragma unroll
  for (int b = 0; b < T::kRowBlocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.top[b][half] = -INFINITY, rows.sum[b][half] = 0;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[b][n][i] = 0;
  }
  const std::int32_t entries = 3 + item.range_end - item.range_begin;
  std::int32_t before = 0;                 // slots of runs that are done
  load_queries<kDim>(args, line, shared);  // joins the group of the first keys
  for (std::int32_t first = 0; first < entries; first += kMostRuns) {
    __syncthreads();  // nobody reads the runs of the turn before
    if (thread < 32) write_runs(args, head, first, line);
    __syncthreads();
    const std::int32_t begin = max(item.slot_begin - before, 0);
    const std::int32_t end = min(item.slot_end - before, line.slots);
    before += line.slots;
    if (begin < end) walk_slots<kDim, T::kRowBlocks>(args, head, begin, end, line, shared, rows);
  }
  cp_async_commit();  // queries of a block that had no slot: only groups are waited for
  cp_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int b = 0; b < T::kRowBlocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.sum[b][half] += __shfl_xor_sync(~0U, rows.sum[b][half], 1);
      rows.sum[b][half] += __shfl_xor_sync(~0U, rows.sum[b][half], 2);
    }
  const int warp_row = thread / 32 * 16 * T::kRowBlocks;
  if (item.partial < 0)
    store_rows<kDim, T::kRowBlocks>(args, line, warp_row, shared, rows);
  else
    store_partial<kDim, T::kRowBlocks>(args, item, kv_head, warp_row, rows);
}

}  // namespace purekv::cuda::sm80
