#include "kernels/decode_attention.h"

#include <algorithm>
#include <numbers>

#include "base/fail.h"
#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

/// The pair's queries, and for its first piece the new row, on their way to shared memory.
template <class Shape, int kDim>
struct NewRow {
  static constexpr int kPairs = (Shape::kHeads + 1) * (kDim / 2);  ///< (j, j + dim / 2) of each head
  static constexpr int kEach = (kPairs + Shape::kThreads - 1) / Shape::kThreads;
  __nv_bfloat16 low[kEach], high[kEach];
  float cos[kEach], sin[kEach];

  __device__ static int head(int i) { return (static_cast<int>(threadIdx.x) + i * Shape::kThreads) / (kDim / 2); }
  __device__ static int dim(int i) { return (static_cast<int>(threadIdx.x) + i * Shape::kThreads) % (kDim / 2); }
  /// Queries, then the new key where this piece takes it.
  __device__ static bool wanted(const DecodePairParams& p, const DecodePiece& piece, int i) {
    return head(i) < p.group + (piece.index == 0 ? 1 : 0);
  }

  __device__ void load(const DecodePairParams& p, const DecodePiece& piece) {
    const int sequence = piece.pair / p.kv_heads;
    const int kv_head = piece.pair % p.kv_heads;
    const int half = p.dim / 2;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (!wanted(p, piece, i) || dim(i) >= half) continue;
      const int h = head(i) < p.group ? kv_head * p.group + head(i) : p.kv_heads * p.group + kv_head;
      const __nv_bfloat16* from = p.qkv + sequence * p.qkv_stride + h * p.dim + dim(i);
      low[i] = from[0];
      high[i] = from[half];
      cos[i] = p.cos[sequence * half + dim(i)];
      sin[i] = p.sin[sequence * half + dim(i)];
    }
  }

  /// Rotated, as bf16, zero behind dim; the key lies behind the most heads.
  __device__ void store(const DecodePairParams& p, const DecodePiece& piece, std::byte* queries) const {
    const int half = p.dim / 2;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (!wanted(p, piece, i)) continue;
      const int slot = head(i) < p.group ? head(i) : Shape::kHeads;
      auto* to = reinterpret_cast<__nv_bfloat16*>(queries + slot * Shape::kQueryPitch);
      const int j = dim(i);
      if (j < half) {
        const float a = __bfloat162float(low[i]);
        const float b = __bfloat162float(high[i]);
        to[j] = __float2bfloat16_rn(a * cos[i] - b * sin[i]);
        to[j + half] = __float2bfloat16_rn(b * cos[i] + a * sin[i]);
      } else {
        to[half + j] = to[kDim - 1 - (j - half)] = __float2bfloat16_rn(0);
      }
    }
  }
};

/// Copies the new value to where the warps meet, and both new rows into the cache: by the first piece of a pair alone.
template <class Shape>
__device__ void take_new_row(const DecodePairParams& p, const DecodePiece& piece, const std::byte* queries,
                             __nv_bfloat16* value) {
  const int first = p.kv_heads * p.group + p.kv_heads + piece.pair % p.kv_heads;
  const __nv_bfloat16* from = p.qkv + piece.pair / p.kv_heads * p.qkv_stride + first * p.dim;
  const auto* key = reinterpret_cast<const __nv_bfloat16*>(queries + Shape::kHeads * Shape::kQueryPitch);
  for (int j = static_cast<int>(threadIdx.x); j < p.dim; j += Shape::kThreads) {
    value[j] = from[j];
    static_cast<__nv_bfloat16*>(piece.rows.k)[piece.rows.rows * p.dim + j] = key[j];
    static_cast<__nv_bfloat16*>(piece.rows.v)[piece.rows.rows * p.dim + j] = from[j];
  }
}

/// Scores of the new key, one warp a head.
template <class Shape>
__device__ void score_new_row(const DecodePairParams& p, const std::byte* queries, float* scores) {
  const auto* key = reinterpret_cast<const __nv_bfloat16*>(queries + Shape::kHeads * Shape::kQueryPitch);
  for (int h = static_cast<int>(threadIdx.x / 32); h < p.group; h += Shape::kWarps) {
    const auto* q = reinterpret_cast<const __nv_bfloat16*>(queries + h * Shape::kQueryPitch);
    float dot = 0;
    for (int j = static_cast<int>(threadIdx.x % 32); j < p.dim; j += 32)
      dot += __bfloat162float(q[j]) * __bfloat162float(key[j]);
    for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0U, dot, step);
    if (threadIdx.x % 32 == 0) scores[h] = dot * p.scale_log2;
  }
}

__device__ inline void store_out(const DecodePairParams& p, int pair, int head, int dim, const float4& value) {
  const float v[4] = {value.x, value.y, value.z, value.w};
  __nv_bfloat16* out = p.out + pair / p.kv_heads * p.out_stride + (pair % p.kv_heads * p.group + head) * p.dim;
  for (int i = 0; i < 4; ++i)
    if (dim + i < p.dim) out[dim + i] = __float2bfloat16_rn(v[i]);
}

__device__ inline void add_scaled(float4& to, const float4& x, float scale) {
  to.x += x.x * scale;
  to.y += x.y * scale;
  to.z += x.z * scale;
  to.w += x.w * scale;
}

/// Joins the pieces of a pair in order, 4 dims of a head a thread; the loads of 12 pieces are under way at once.
template <class Shape, int kDim>
__device__ void join_pieces(const DecodePairParams& p, const DecodePiece& piece) {
  constexpr int kTogether = 12;
  const int first = static_cast<int>(blockIdx.x) - piece.index;
  for (int i = static_cast<int>(threadIdx.x); i < p.group * (kDim / 4); i += Shape::kThreads) {
    const int h = i / (kDim / 4);
    const auto* parts = reinterpret_cast<const float4*>(p.partial_out) + first * p.group * (kDim / 4) + i;
    const float2* sums = p.partial_sums + first * p.group + h;
    float top = -INFINITY;
    float total = 0;
    float4 out{0, 0, 0, 0};
    for (int begin = 0; begin < piece.pieces; begin += kTogether) {
      float2 sum[kTogether];
      float4 part[kTogether];
#pragma unroll
      for (int s = 0; s < kTogether; ++s) {
        const bool there = begin + s < piece.pieces;
        sum[s] = there ? __ldcg(sums + (begin + s) * p.group) : float2{-INFINITY, 0};
        part[s] = there ? __ldcg(parts + (begin + s) * p.group * (kDim / 4)) : float4{0, 0, 0, 0};
      }
      float next = top;
#pragma unroll
      for (int s = 0; s < kTogether; ++s) next = fmaxf(next, sum[s].x);
      const float shrink = exp2_fast(top - next);
      total *= shrink;
      out = {out.x * shrink, out.y * shrink, out.z * shrink, out.w * shrink};
#pragma unroll
      for (int s = 0; s < kTogether; ++s) {
        const float weight = exp2_fast(sum[s].x - next);
        total += weight * sum[s].y;
        add_scaled(out, part[s], weight);
      }
      top = next;
    }
    const float scale = 1.0F / total;
    store_out(p, piece.pair, h, i % (kDim / 4) * 4, {out.x * scale, out.y * scale, out.z * scale, out.w * scale});
  }
}

/// What the warps of a block leave for each other.
struct DecodeWarps {
  float *top, *sum;  ///< [warps][heads]
  float* out;        ///< [warps][heads][dim]
};

template <class Shape, int kDim, int kHeadTiles>
__device__ void leave_state(const DecodeState<kDim, kHeadTiles>& state, const DecodeWarps& warps) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int g = static_cast<int>(threadIdx.x % 32 / 4);
  const int t = static_cast<int>(threadIdx.x % 4);
  for (int n = 0; n < kHeadTiles; ++n)
    for (int h = 0; h < 2; ++h) {
      float sum = state.sum[n][h];
      for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0U, sum, step);
      const int at = warp * Shape::kHeads + 8 * n + 2 * t + h;
      if (g == 0) warps.top[at] = state.top[n][h];
      if (g == 0) warps.sum[at] = sum;
      for (int m = 0; m < kDim / 16; ++m)
        *reinterpret_cast<float2*>(warps.out + at * kDim + 64 * (m / 4) + 8 * g + 2 * (m % 4)) = {state.o[n][m][h],
                                                                                                  state.o[n][m][h + 2]};
    }
}

/// Joins the warps' sums and the new row: the piece's answer, or its part of the pair's.
template <class Shape, int kDim>
__device__ void finish_piece(const DecodePairParams& p, const DecodePiece& piece, const DecodeWarps& warps,
                             const float* scores, const __nv_bfloat16* value) {
  for (int i = static_cast<int>(threadIdx.x); i < p.group * (kDim / 4); i += Shape::kThreads) {
    const int h = i / (kDim / 4);
    const int dim = i % (kDim / 4) * 4;
    float top = piece.index == 0 ? scores[h] : -INFINITY;
    for (int w = 0; w < Shape::kWarps; ++w) top = fmaxf(top, warps.top[w * Shape::kHeads + h]);
    float total = 0;
    float4 sum{0, 0, 0, 0};
    for (int w = 0; w < Shape::kWarps; ++w) {
      const float weight = exp2_fast(warps.top[w * Shape::kHeads + h] - top);
      total += weight * warps.sum[w * Shape::kHeads + h];
      add_scaled(sum, *reinterpret_cast<const float4*>(warps.out + (w * Shape::kHeads + h) * kDim + dim), weight);
    }
    if (piece.index == 0) {
      const float weight = exp2_fast(scores[h] - top);
      total += weight;
      const auto v = [&](int j) { return dim + j < p.dim ? __bfloat162float(value[dim + j]) : 0.0F; };
      add_scaled(sum, {v(0), v(1), v(2), v(3)}, weight);
    }
    if (piece.pieces == 1) {
      const float scale = 1.0F / total;
      store_out(p, piece.pair, h, dim, {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale});
      continue;
    }
    const int at = static_cast<int>(blockIdx.x) * p.group + h;
    reinterpret_cast<float4*>(p.partial_out)[at * (kDim / 4) + dim / 4] = sum;
    if (dim == 0) p.partial_sums[at] = {top, total};
  }
}

/// True in the one block that finishes a pair last; everything the others have written is visible to it.
__device__ bool finishes_last(const DecodePairParams& p, const DecodePiece& piece) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&p.finished[piece.pair], 1) == piece.pieces - 1;
    if (last) p.finished[piece.pair] = 0;  // for the next launch
    __threadfence();
  }
  __syncthreads();
  return last;
}

template <int kDim, int kHeadTiles, int kRing>
__global__ void __launch_bounds__(DecodeShape<kDim, kHeadTiles, kRing>::kThreads,
                                  DecodeShape<kDim, kHeadTiles, kRing>::kResident)
    decode_attention_kernel(const DecodePairParams p) {
  using Shape = DecodeShape<kDim, kHeadTiles, kRing>;
  extern __shared__ __align__(128) std::byte memory[];
  std::byte* queries = memory + Shape::kRingBytes;
  auto* value = reinterpret_cast<__nv_bfloat16*>(queries + Shape::kQueryBytes);
  auto* numbers = reinterpret_cast<float*>(queries + Shape::kQueryBytes + kDim * 2);
  float* scores = numbers + 2 * Shape::kWarps * Shape::kHeads;
  const DecodeWarps warps{
      .top = numbers, .sum = numbers + Shape::kWarps * Shape::kHeads, .out = reinterpret_cast<float*>(memory)};

  const DecodePiece piece = find_piece(p, Shape::kWarps * kDecodeTileKeys);
  if (piece.pair < 0) return;
  const std::uint32_t own = shared_address(memory) + threadIdx.x * 16;
  DecodeLoader<Shape> loader(p.dim, piece);
  for (int s = 0; s < Shape::kRing - 1; ++s) loader.load(own + s * Shape::kSlotBytes);
  wait_for_previous();
  let_next_start();
  {
    NewRow<Shape, kDim> row;
    row.load(p, piece);
    row.store(p, piece, queries);
  }
  __syncthreads();
  if (piece.index == 0) take_new_row<Shape>(p, piece, queries, value);

  const int g = static_cast<int>(threadIdx.x % 32 / 4);
  const int t = static_cast<int>(threadIdx.x % 4);
  int slot = 0;
  // Waits for the slot in turn and refills the one that was read before it.
  const auto next_slot = [&] {
    cp_async_wait<Shape::kRing - 2>();
    loader.load(own + (slot == 0 ? Shape::kRing - 1 : slot - 1) * Shape::kSlotBytes);
    const std::byte* here = memory + slot * Shape::kSlotBytes + threadIdx.x * 16;
    slot = slot + 1 == Shape::kRing ? 0 : slot + 1;
    return here;
  };
  DecodeState<kDim, kHeadTiles> state;
  for (int tile = static_cast<int>(threadIdx.x / 32); piece.begin + tile * kDecodeTileKeys < piece.end;
       tile += Shape::kWarps) {
    const std::byte* keys = next_slot();
    const auto piece_of = [](const std::byte* from, int i) {
      return *reinterpret_cast<const uint4*>(from + i * Shape::kThreads * 16);
    };
    float s[kHeadTiles][4] = {};
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      const uint4 low = piece_of(keys, 2 * c);
      const uint4 high = piece_of(keys, 2 * c + 1);
#pragma unroll
      for (int n = 0; n < kHeadTiles; ++n) {
        const auto q = *reinterpret_cast<const uint4*>(queries + (8 * n + g) * Shape::kQueryPitch + 64 * c + 16 * t);
        mma_bf16(s[n], {low.x, high.x, low.y, high.y}, q.x, q.y);
        mma_bf16(s[n], {low.z, high.z, low.w, high.w}, q.z, q.w);
      }
    }
    const int left = piece.end - piece.begin - tile * kDecodeTileKeys;
    std::uint32_t weights[kHeadTiles][2];
#pragma unroll
    for (int n = 0; n < kHeadTiles; ++n) {
      for (int i = 0; i < 4; ++i) s[n][i] = g + 8 * (i / 2) < left ? s[n][i] * p.scale_log2 : -INFINITY;
      state.weigh(n, s[n], weights[n]);
    }
    const std::byte* values = next_slot();
#pragma unroll
    for (int quarter = 0; quarter < kDim / 64; ++quarter) {
      std::uint32_t v[4][4];
      for (int i = 0; i < 4; ++i) {
        const uint4 row = piece_of(values, 4 * quarter + i);
        v[i][0] = row.x, v[i][1] = row.y, v[i][2] = row.z, v[i][3] = row.w;
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const std::uint32_t a[4] = {__byte_perm(v[0][m], v[1][m], 0x5410), __byte_perm(v[0][m], v[1][m], 0x7632),
                                    __byte_perm(v[2][m], v[3][m], 0x5410), __byte_perm(v[2][m], v[3][m], 0x7632)};
#pragma unroll
        for (int n = 0; n < kHeadTiles; ++n) mma_bf16(state.o[n][4 * quarter + m], a, weights[n][0], weights[n][1]);
      }
    }
  }
  if (piece.index == 0) score_new_row<Shape>(p, queries, scores);
  cp_async_wait<0>();
  __syncthreads();  // the ring becomes the warps' meeting place
  leave_state<Shape>(state, warps);
  __syncthreads();
  finish_piece<Shape, kDim>(p, piece, warps, scores, value);
  if (piece.pieces == 1 || !finishes_last(p, piece)) return;
  join_pieces<Shape, kDim>(p, piece);
}

constexpr std::int64_t padded_dim(std::int64_t dim) { return dim <= 64 ? 64 : dim <= 128 ? 128 : 256; }

/// Blocks of a launch. One a multiprocessor where pairs are few: fewer pieces to join, and every kernel of a step has
/// the same one block everywhere (else the next one's blocks fall two to a place, which costs it a quarter). Two where
/// pairs are many, and always one piece more a pair than the pairs' own.
std::int64_t block_count(const Context& context, std::int64_t pairs) {
  const std::int64_t sms = context.cuda->sms;
  return std::max(pairs * 8 <= sms ? sms : 2 * sms, 2 * pairs);
}

template <int kDim, int kHeadTiles, int kRing>
bool run(const Context& context, const DecodePairParams& p) {
  using Shape = DecodeShape<kDim, kHeadTiles, kRing>;
  if (Shape::kSharedBytes > context.cuda->smem_bytes) return false;
  const auto blocks = static_cast<unsigned>(block_count(context, p.pairs));
  launch_chained(context, decode_attention_kernel<kDim, kHeadTiles, kRing>, dim3(blocks), Shape::kThreads,
                 Shape::kSharedBytes, p);
  return true;
}

template <int kHeadTiles>
bool run_dim(const Context& context, const DecodePairParams& p) {
  if (p.dim > 128 || p.dim % 8 != 0) return run<256, kHeadTiles, 2>(context, p);
  if (p.dim <= 64) return run<64, kHeadTiles, 3>(context, p);
  return run<128, kHeadTiles, 3>(context, p) || run<128, kHeadTiles, 2>(context, p);
}

}  // namespace

std::int64_t decode_attention_work(const Context& context, const HeadShape& shape, std::int64_t sequences,
                                   std::int64_t /*most_rows*/) {
  const std::int64_t pairs = sequences * shape.kv_heads;
  const std::int64_t dim = shape.head_dim % 8 != 0 ? 256 : padded_dim(shape.head_dim);
  return block_count(context, pairs) * shape.group() * (dim + 2) + pairs;
}

void decode_attention(const Context& context, const DecodeAttentionParams& params) {
  const HeadShape& shape = params.shape;
  PUREKV_ASSERT(params.qkv.dtype == DType::kBF16 && params.dtype == DType::kBF16 && params.out.dtype == DType::kBF16);
  PUREKV_ASSERT(shape.head_dim % 2 == 0 && shape.head_dim <= 256 && shape.group() <= 16);
  const std::int64_t pairs = params.qkv.rows * shape.kv_heads;
  const std::int64_t dim = shape.head_dim % 8 != 0 ? 256 : padded_dim(shape.head_dim);
  const std::int64_t heads = block_count(context, pairs) * shape.group();
  auto* work = static_cast<float*>(params.work.data);
  const DecodePairParams p{.qkv = static_cast<const __nv_bfloat16*>(params.qkv.data),
                           .qkv_stride = params.qkv.stride,
                           .cos = params.cos,
                           .sin = params.sin,
                           .rows = params.rows,
                           .pairs = static_cast<int>(pairs),
                           .kv_heads = static_cast<int>(shape.kv_heads),
                           .group = static_cast<int>(shape.group()),
                           .dim = static_cast<int>(shape.head_dim),
                           .scale_log2 = params.scale * static_cast<float>(std::numbers::log2e),
                           .out = static_cast<__nv_bfloat16*>(params.out.data),
                           .out_stride = params.out.stride,
                           .partial_out = work,
                           .partial_sums = reinterpret_cast<float2*>(work + heads * dim),
                           .finished = reinterpret_cast<int*>(work + heads * (dim + 2))};
  const bool ran = shape.group() <= 8 ? run_dim<1>(context, p) : run_dim<2>(context, p);
  PUREKV_ASSERT(ran);
}

}  // namespace purekv::cuda
