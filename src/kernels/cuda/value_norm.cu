#include <cstddef>

#include "device/buffer.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/value_norm.cuh"
#include "kernels/cuda/value_norm_sm90.h"

/// Value norms by mma.sync, for every GPU; value_norm.cuh says how. U is upper triangular: 36 of 64 blocks of 16 x 16
/// remain at head_dim 128, in the order of matrix fragments.
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

/// d[16 x 8] += a b, fp16 operands and float32 sums; fragments as in mma_bf16.
__device__ void mma_half(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Grid: heads. Packs U of one head as B fragments: block (k-step, n-step) at n (n + 1) / 2 + k; lane's four words are
/// (places 2t, 2t + 1; then + 8) of columns g, then of columns g + 8.
template <int kParts>
__global__ void __launch_bounds__(kThreads) pack_triangles(const float* grams, int dims, uint4* u, float* unscale) {
  const float* gram = grams + static_cast<long long>(blockIdx.x) * dims * dims;
  const float scale = gram_scale<kThreads>(gram, dims);
  if (threadIdx.x == 0) unscale[blockIdx.x] = 1.0F / scale;
  for (int i = threadIdx.x; i < kUBlocks<kParts> * 32; i += kThreads) {
    int n_step = 0;
    while ((n_step + 1) * (n_step + 2) / 2 <= i / 32) ++n_step;
    const int k_step = i / 32 - n_step * (n_step + 1) / 2;
    const int g = i % 32 / 4;
    const int t = i % 4;
    const auto word = [&](int k, int n) {
      return pack_half(scale * triangle(gram, dims, {k_step, k}, {n_step, n}),
                       scale * triangle(gram, dims, {k_step, k + 1}, {n_step, n}));
    };
    u[static_cast<long long>(blockIdx.x) * kUBlocks<kParts> * 32 + i] =
        make_uint4(word(2 * t, g), word(2 * t + 8, g), word(2 * t, g + 8), word(2 * t + 8, g + 8));
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
void launch(const Context& context, const NormKernel& p, unsigned kv_heads) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, kBlockRows)), kv_heads);
  if (p.nov != nullptr)
    mean_norms<kParts, true><<<grid, kThreads, 0, stream_of(context)>>>(p);
  else
    mean_norms<kParts, false><<<grid, kThreads, 0, stream_of(context)>>>(p);
  check_launch("measuring values behind W_o");
}

template <int kParts>
void launch_lengths(const Context& context, const NormKernel& p, unsigned kv_heads, float* l2) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, kThreads / 4)), kv_heads);
  value_lengths<kParts><<<grid, kThreads, 0, stream_of(context)>>>(p.v, p.values, p.rows, l2);
  check_launch("measuring values");
}

/// Of one head.
std::int64_t triangle_bytes(const Context& context, const HeadShape& shape) {
  if (value_norm_sm90_takes(context, shape)) return value_norm_sm90_triangle_bytes(shape);
  return is_narrow(shape) ? kUBytes<2> : kUBytes<4>;
}

float* packed_scales(const Context& context, const HeadShape& shape, const void* packed) {
  const auto* bytes = static_cast<const std::byte*>(packed) + shape.heads * triangle_bytes(context, shape);
  return const_cast<float*>(reinterpret_cast<const float*>(bytes));
}

}  // namespace

std::int64_t packed_gram_bytes(const Context& context, const HeadShape& shape) {
  return shape.heads * (triangle_bytes(context, shape) + static_cast<std::int64_t>(sizeof(float)));
}

void pack_gram(const Context& context, const HeadShape& shape, const float* gram, void* packed) {
  float* unscale = packed_scales(context, shape, packed);
  if (value_norm_sm90_takes(context, shape)) return value_norm_sm90_pack(context, shape, gram, packed, unscale);
  const auto pack = is_narrow(shape) ? pack_triangles<2> : pack_triangles<4>;
  pack<<<static_cast<unsigned>(shape.heads), kThreads, 0, stream_of(context)>>>(gram, static_cast<int>(shape.head_dim),
                                                                                static_cast<uint4*>(packed), unscale);
  check_launch("packing Gram matrices");
}

void value_norm(const Context& context, const ValueNormParams& params) {
  const HeadShape& shape = params.shape;
  std::shared_ptr<const FrameRows> frames;
  if (params.nov != nullptr) frames = frame_rows(context, *params.table, shape);
  NormKernel p{.v = {},
               .values = {},
               .u = nullptr,
               .unscale = nullptr,
               .earlier = frames == nullptr ? nullptr : frames->earlier.as<int>(),
               .rows = params.kv.heads.front().rows,
               .group = static_cast<int>(shape.group()),
               .out = params.out,
               .nov = params.nov};
  p.values = operand_of(params.kv, true, static_cast<int>(shape.head_dim), p.v);
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads);
  if (params.l2 != nullptr) {
    if (is_narrow(shape))
      launch_lengths<2>(context, p, kv_heads, params.l2);
    else
      launch_lengths<4>(context, p, kv_heads, params.l2);
  }
  if (p.out == nullptr && p.nov == nullptr) return;
  Buffer made;
  const void* packed = params.packed;
  if (packed == nullptr) {
    made = Buffer(context, cuda::packed_gram_bytes(context, shape));
    pack_gram(context, shape, params.gram, made.data());
    packed = made.data();
  }
  p.u = static_cast<const uint4*>(packed);
  p.unscale = packed_scales(context, shape, packed);
  if (value_norm_sm90_takes(context, shape)) return value_norm_sm90(context, shape, p);
  if (is_narrow(shape)) return launch<2>(context, p, kv_heads);
  launch<4>(context, p, kv_heads);
}

}  // namespace purekv::cuda
