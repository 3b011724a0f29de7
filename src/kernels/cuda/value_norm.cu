#include <cuda_fp16.h>

#include "device/buffer.h"
#include "kernels/cuda/frame_rows.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/score_tiles.cuh"

/// ||W_o^h v|| = sqrt(v^T G_h v) on the tensor cores in one precision of 11 bits: a row is scaled by a power of two so
/// that its largest value lies in [1, 2), which makes a bf16 value exact as fp16 (but for those 2^-14 below the row's
/// largest), and G_h likewise. Novelty multiplies the difference itself, formed in float32 and then rounded: the
/// difference of two products would cancel where frames are alike. Error near 2^-12 of the norm.
///
/// G is symmetric: v^T G v = v^T U v with U upper triangular, off-diagonal values doubled, and 36 of 64 blocks of 16 x
/// 16 remain at head_dim 128. U is packed once a call in the order of matrix fragments. An accumulator's columns are
/// then the dims that the same lane holds as operand, so the second product with v is a sum in registers.
///
/// 1.1 * head_dim^2 * heads FLOPs a row and kind (out, nov); reads V once for each kind. Shared memory: two packed U of
/// 18 KiB at head_dim 128. A warp has 16 rows.
namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlockRows = kThreads / 32 * 16;

template <int kParts>
inline constexpr int kUBlocks = kParts * (2 * kParts + 1);  ///< 16 x 16, on or above the diagonal
template <int kParts>
inline constexpr int kUBytes = kUBlocks<kParts> * 512;

struct NormKernel {
  HeadPointers v;
  ScoreOperand values;
  const uint4* u;        ///< [heads, blocks, 32 lanes]
  const float* unscale;  ///< [heads] u is G divided by this
  const int* earlier;    ///< [rows] FrameRows::earlier; null: no novelty
  long long rows;
  int group;
  float* out;  ///< or null
  float* nov;
};

/// d[16 x 8] += a b, fp16 operands and float32 sums; fragments as in mma_bf16.
__device__ void mma_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ unsigned pack_half(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

/// Square root on the special-function unit, to about 2^-23; 0 of 0.
__device__ float root(float x) {
  float r;
  asm("sqrt.approx.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  return r;
}

/// Volatile: the values are the same for every head of a group, and as floats they would not stay in registers.
__device__ float2 unpack_half(unsigned x) {
  float2 pair;
  asm volatile("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}\n"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(x));
  return pair;
}

/// The power of two with the exponent field `field`, kept finite with a finite inverse.
__device__ float power_of_two(int field) { return __int_as_float(min(max(field, 1), 253) << 23); }

/// The dim at place `place` (0 to 15) of k-step `step`: the permutation of kernels/cuda/score_tiles.cuh.
__device__ int dim_at(int step, int place) {
  return kDimsAPart * (step / 2) + 8 * (place % 8 / 2) + 4 * (step % 2) + 2 * (place / 8) + place % 2;
}

/// Grid: heads. Packs U of one head as B fragments: block (k-step, n-step) at n (n + 1) / 2 + k; lane's four words are
/// (places 2t, 2t + 1; then + 8) of columns g, then of columns g + 8.
template <int kParts>
__global__ void __launch_bounds__(kThreads) pack_gram(const float* grams, int dims, uint4* u, float* unscale) {
  __shared__ unsigned tops[kThreads];
  const float* gram = grams + static_cast<long long>(blockIdx.x) * dims * dims;
  unsigned top = 0;
  for (int i = threadIdx.x; i < dims * dims; i += kThreads) top = max(top, __float_as_uint(gram[i]) & 0x7FFFFFFFU);
  tops[threadIdx.x] = top;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) tops[threadIdx.x] = max(tops[threadIdx.x], tops[threadIdx.x + half]);
  }
  __syncthreads();
  // The largest value becomes 2^13 to 2^14: doubled it still is an fp16, and 2^-28 of it too.
  constexpr int kTopExponent = 13;
  const float scale = power_of_two(2 * 127 + kTopExponent - static_cast<int>(tops[0] >> 23));
  if (threadIdx.x == 0) unscale[blockIdx.x] = 1.0F / scale;
  const auto value = [&](int k_step, int k, int n_step, int n) {
    const int row = dim_at(k_step, k);
    const int column = dim_at(n_step, n);
    if (row >= dims || column >= dims || (k_step == n_step && k > n)) return 0.0F;
    return (k_step == n_step && k == n ? scale : 2 * scale) * gram[row * dims + column];
  };
  for (int i = threadIdx.x; i < kUBlocks<kParts> * 32; i += kThreads) {
    int n_step = 0;
    while ((n_step + 1) * (n_step + 2) / 2 <= i / 32) ++n_step;
    const int k_step = i / 32 - n_step * (n_step + 1) / 2;
    const int g = i % 32 / 4;
    const int t = i % 4;
    const auto word = [&](int k, int n) {
      return pack_half(value(k_step, k, n_step, n), value(k_step, k + 1, n_step, n));
    };
    u[static_cast<long long>(blockIdx.x) * kUBlocks<kParts> * 32 + i] =
        make_uint4(word(2 * t, g), word(2 * t + 8, g), word(2 * t, g + 8), word(2 * t + 8, g + 8));
  }
}

/// A warp's 16 rows as A fragments, fp16, and what each lane's two rows (g, g + 8) were multiplied by.
template <int kParts>
struct ScaledRows {
  unsigned a[2 * kParts][4];
  float unscale[2];
};

/// Row `half` of a lane from its 8 kParts values.
template <int kParts>
__device__ void scale_row(const float (&x)[8 * kParts], int half, ScaledRows<kParts>& rows) {
  unsigned top = 0;
#pragma unroll
  for (float value : x) top = max(top, __float_as_uint(value) & 0x7FFFFFFFU);
  top = max(top, __shfl_xor_sync(kFullWarp, top, 1));
  top = max(top, __shfl_xor_sync(kFullWarp, top, 2));
  const float scale = power_of_two(2 * 127 - static_cast<int>(top >> 23));
  rows.unscale[half] = 1.0F / scale;
#pragma unroll
  for (int i = 0; i < 4 * kParts; ++i) {
    const unsigned word = pack_half(x[2 * i] * scale, x[2 * i + 1] * scale);
    rows.a[i / 2][half + 2 * (i % 2)] = word;
  }
}

/// Row words as they are stored: dims 32 p + 8 t .. + 7.
template <bool kAligned, int kParts>
__device__ void load_row(const Bf16Bits* row, int dims, uint4 (&words)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p)
    words[p] = load_dims<kAligned>(row, kDimsAPart * p + 8 * static_cast<int>(threadIdx.x % 4), dims);
}

template <int kParts>
__device__ void unpack_row(const uint4 (&words)[kParts], float (&x)[8 * kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const unsigned all[4] = {words[p].x, words[p].y, words[p].z, words[p].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_bf16(all[i]);
      x[8 * p + 2 * i] = pair.x;
      x[8 * p + 2 * i + 1] = pair.y;
    }
  }
}

/// Loads the lane's rows: the values, and with kNov what they add to the earlier frame's.
template <bool kAligned, int kParts, bool kNov>
__device__ void load_rows(const NormKernel& p, int head, long long first, ScaledRows<kParts> (&kinds)[kNov ? 2 : 1]) {
  const Bf16Bits* values = p.v.head[head];
  uint4 now[2][kParts];
  uint4 before[2][kParts];
  int earlier[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const long long row = first + 8 * half + threadIdx.x % 32 / 4;
    const bool there = row < p.rows;
    if constexpr (kNov) earlier[half] = there ? p.earlier[row] : kTextRow;
    load_row<kAligned>(there ? values + row * p.values.stride : nullptr, p.values.dims, now[half]);
  }
  if constexpr (kNov) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      load_row<kAligned>(earlier[half] >= 0 ? values + earlier[half] * p.values.stride : nullptr, p.values.dims,
                         before[half]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float x[8 * kParts];
    unpack_row<kParts>(now[half], x);
    scale_row<kParts>(x, half, kinds[0]);
    if constexpr (kNov) {
      float then[8 * kParts];
      unpack_row<kParts>(before[half], then);
#pragma unroll
      for (int i = 0; i < 8 * kParts; ++i) x[i] = earlier[half] == kTextRow ? 0.0F : x[i] - then[i];
      scale_row<kParts>(x, half, kinds[1]);
    }
  }
}

/// Adds sqrt(v^T U v) of one head to norm [kinds][row g, g + 8].
template <int kParts, int kKinds>
__device__ void add_head(const ScaledRows<kParts> (&kinds)[kKinds], std::uint32_t u, float unscale,
                         float (&norm)[kKinds][2]) {
  float square[kKinds][2] = {};
  const std::uint32_t first = u + 16 * (threadIdx.x % 32);
  uint4 b[2] = {read_shared(first), {}};  // one block ahead of the products
#pragma unroll
  for (int n = 0; n < 2 * kParts; ++n) {
    float y[kKinds][2][4] = {};
#pragma unroll
    for (int k = 0; k <= n; ++k) {
      const int block = n * (n + 1) / 2 + k;
      if (block + 1 < kUBlocks<kParts>) b[(block + 1) % 2] = read_shared(first + 512 * (block + 1));
      const uint4& now = b[block % 2];
#pragma unroll
      for (int kind = 0; kind < kKinds; ++kind) {
        mma_half(y[kind][0], kinds[kind].a[k], now.x, now.y);
        mma_half(y[kind][1], kinds[kind].a[k], now.z, now.w);
      }
    }
#pragma unroll
    for (int i = 0; i < 4 * kKinds; ++i) {
      const int kind = i / 4, s = i / 2 % 2, half = i % 2;
      const float2 v = unpack_half(kinds[kind].a[n][half + 2 * s]);
      square[kind][half] += y[kind][s][2 * half] * v.x + y[kind][s][2 * half + 1] * v.y;
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * kKinds; ++i) {
    float& sum = square[i / 2][i % 2];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    norm[i / 2][i % 2] += root(fmaxf(sum * unscale, 0.0F)) * kinds[i / 2].unscale[i % 2];
  }
}

/// Grid: rows by 128, KV heads.
template <int kParts, bool kNov>
__global__ void __launch_bounds__(kThreads, 2) mean_norms(NormKernel p) {
  constexpr int kKinds = kNov ? 2 : 1;
  __shared__ uint4 ring[2][kUBlocks<kParts> * 32];
  const int head = blockIdx.y;
  const int lane = threadIdx.x % 32;
  const auto load_u = [&](int g) {
    const uint4* from = p.u + static_cast<long long>(head * p.group + g) * kUBlocks<kParts> * 32;
    for (int i = threadIdx.x; i < kUBlocks<kParts> * 32; i += kThreads)
      cp_async_16(shared_address(&ring[g % 2][i]), from + i);
  };
  load_u(0);
  cp_async_commit();
  const long long first = static_cast<long long>(blockIdx.x) * kBlockRows + threadIdx.x / 32 * 16;
  ScaledRows<kParts> kinds[kKinds];
  if (p.values.aligned)
    load_rows<true, kParts, kNov>(p, head, first, kinds);
  else
    load_rows<false, kParts, kNov>(p, head, first, kinds);
  float norm[kKinds][2] = {};
  float unscale = p.unscale[head * p.group];
  for (int g = 0; g < p.group; ++g) {
    cp_async_wait<0>();
    __syncthreads();  // U of this head is there, and everyone is done with the one before
    const float next = g + 1 < p.group ? p.unscale[head * p.group + g + 1] : 0.0F;
    if (g + 1 < p.group) load_u(g + 1);
    cp_async_commit();
    add_head<kParts, kKinds>(kinds, shared_address(ring[g % 2]), unscale, norm);
    unscale = next;
  }
#pragma unroll
  for (int i = 0; i < 2 * kKinds; ++i) {
    const long long row = first + 8 * (i % 2) + lane / 4;
    float* to = i / 2 == 0 ? p.out : p.nov;
    if (lane % 4 == 0 && row < p.rows && to != nullptr)
      to[head * p.rows + row] = norm[i / 2][i % 2] / static_cast<float>(p.group);
  }
}

/// ||v||, four lanes a row: reads V once. Grid: rows by 64, KV heads.
template <int kParts>
__global__ void __launch_bounds__(kThreads)
    value_lengths(HeadPointers v, ScoreOperand values, long long rows, float* l2) {
  const long long row = static_cast<long long>(blockIdx.x) * (kThreads / 4) + threadIdx.x / 4;
  const Bf16Bits* from = row < rows ? v.head[blockIdx.y] + row * values.stride : nullptr;
  uint4 words[kParts];
  if (values.aligned)
    load_row<true>(from, values.dims, words);
  else
    load_row<false>(from, values.dims, words);
  float x[8 * kParts];
  unpack_row<kParts>(words, x);
  float square = 0;
#pragma unroll
  for (float value : x) square += value * value;
  square += __shfl_xor_sync(kFullWarp, square, 1);
  square += __shfl_xor_sync(kFullWarp, square, 2);
  if (threadIdx.x % 4 == 0 && row < rows) l2[blockIdx.y * rows + row] = sqrtf(square);
}

template <int kParts>
void launch(const Context& context, const ValueNormParams& params, NormKernel p) {
  const auto kv_heads = static_cast<unsigned>(params.shape.kv_heads);
  const auto heads = static_cast<unsigned>(params.shape.heads);
  cudaStream_t stream = stream_of(context);
  if (params.l2 != nullptr) {
    const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, kThreads / 4)), kv_heads);
    value_lengths<kParts><<<grid, kThreads, 0, stream>>>(p.v, p.values, p.rows, params.l2);
    check_launch("measuring values");
  }
  if (p.out == nullptr && p.nov == nullptr) return;
  const Buffer u(context, params.shape.heads * kUBytes<kParts>);
  const Buffer unscale(context, params.shape.heads * static_cast<std::int64_t>(sizeof(float)));
  p.u = u.as<uint4>();
  p.unscale = unscale.as<float>();
  pack_gram<kParts><<<heads, kThreads, 0, stream>>>(params.gram, p.values.dims, u.as<uint4>(), unscale.as<float>());
  check_launch("packing Gram matrices");
  const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, kBlockRows)), kv_heads);
  if (p.nov != nullptr)
    mean_norms<kParts, true><<<grid, kThreads, 0, stream>>>(p);
  else
    mean_norms<kParts, false><<<grid, kThreads, 0, stream>>>(p);
  check_launch("measuring values behind W_o");
}

}  // namespace

void value_norm(const Context& context, const ValueNormParams& params) {
  std::shared_ptr<const FrameRows> frames;
  if (params.nov != nullptr) frames = frame_rows(context, *params.table, params.shape.group());
  NormKernel p{.v = {},
               .values = {},
               .u = nullptr,
               .unscale = nullptr,
               .earlier = frames == nullptr ? nullptr : frames->earlier.as<int>(),
               .rows = params.kv.heads.front().rows,
               .group = static_cast<int>(params.shape.group()),
               .out = params.out,
               .nov = params.nov};
  p.values = operand_of(params.kv, true, static_cast<int>(params.shape.head_dim), p.v);
  if (params.shape.head_dim <= 2 * kDimsAPart) return launch<2>(context, params, p);
  launch<4>(context, params, p);
}

}  // namespace purekv::cuda
