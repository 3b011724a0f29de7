#include "kernels/cuda/value_norm_sm90.h"

#include <algorithm>

#include "kernels/cuda/value_norm.cuh"
#include "kernels/cuda/wgmma.cuh"

/// Value norms on Hopper; value_norm.cuh says how. A warpgroup has 64 rows of one kind (values, or what they add to the
/// earlier frame's) as operand in registers, and the triangles of a KV head's whole group stay in shared memory while a
/// block goes through its share of the rows: nothing but V moves. U is lower triangular: of the k-step s (16 dims), the
/// first 32 (s / 2 + 1) columns are stored and multiplied, 5/8 of the square at head_dim 128.
///
/// 1.25 * head_dim^2 * heads FLOPs a row and kind; reads V once for each kind. Shared memory: 20 KiB a head of the
/// group at head_dim 128.
///
/// Measured on an H200, 28/4 heads, head_dim 128, 32k rows, both kinds: 85 us (mma.sync: 109).
namespace purekv::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarpgroups = kThreads / 128;
constexpr int kWarpgroupRows = 64;
constexpr int kPackThreads = 256;

/// Columns of a k-step.
__host__ __device__ constexpr int columns_of(int step) { return 32 * (step / 2 + 1); }

/// Bytes before a k-step: 32 a column.
__host__ __device__ constexpr int step_offset(int step) {
  const int pair = step / 2;
  return 1024 * (pair * (pair + 1) + step % 2 * (pair + 1));
}

template <int kParts>
inline constexpr int kTriangleBytes = step_offset(2 * kParts);

/// Grid: heads. Blocks of 8 columns x 8 places, as plain_operand() reads them.
template <int kParts>
__global__ void __launch_bounds__(kPackThreads)
    pack_lower(const float* grams, int dims, uint4* triangles, float* unscale) {
  const float* gram = grams + static_cast<long long>(blockIdx.x) * dims * dims;
  uint4* to = triangles + static_cast<long long>(blockIdx.x) * (kTriangleBytes<kParts> / 16);
  const float scale = gram_scale<kPackThreads>(gram, dims);
  if (threadIdx.x == 0) unscale[blockIdx.x] = 1.0F / scale;
  for (int step = 0; step < 2 * kParts; ++step)
    for (int i = threadIdx.x; i < 2 * columns_of(step); i += kPackThreads) {
      const int column = i / 16 * 8 + i % 8;
      const int place = i / 8 % 2 * 8;
      const auto value = [&](int k) {
        return scale * triangle(gram, dims, {column / 16, column % 16}, {step, place + k});
      };
      to[step_offset(step) / 16 + i] = make_uint4(pack_half(value(0), value(1)), pack_half(value(2), value(3)),
                                                  pack_half(value(4), value(5)), pack_half(value(6), value(7)));
    }
}

/// A lane's two rows of a kind.
template <bool kAligned, int kParts>
__device__ void load_kind(const NormKernel& p, int head, long long first, bool novelty, ScaledRows<kParts>& rows) {
  const Bf16Bits* values = p.v.head[head];
  uint4 now[2][kParts];
  int earlier[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const long long row = first + 8 * half + threadIdx.x % 32 / 4;
    const bool there = row < p.rows;
    earlier[half] = !there ? kTextRow : novelty ? p.earlier[row] : kNoEarlierRow;
    load_row<kAligned>(there ? values + row * p.values.stride : nullptr, p.values.dims, now[half]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint4 before[kParts];
    load_row<kAligned>(earlier[half] >= 0 ? values + earlier[half] * p.values.stride : nullptr, p.values.dims, before);
    float x[8 * kParts];
    float then[8 * kParts];
    unpack_row<kParts>(now[half], x);
    unpack_row<kParts>(before, then);
#pragma unroll
    for (int i = 0; i < 8 * kParts; ++i) x[i] = earlier[half] == kTextRow ? 0.0F : x[i] - then[i];
    scale_row<kParts>(x, half, rows);
  }
}

/// y = v U, the widest k-step first: it writes every accumulator. No fence where the shape changes: the products of a
/// warpgroup run in order, and with one ptxas serialises them (C7511).
template <int kParts>
__device__ __forceinline__ void multiply(float (&y)[16 * kParts], const ScaledRows<kParts>& rows, std::uint32_t u) {
  hopper::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    constexpr int kSteps = 2 * kParts;
    const int part = kParts - 1 - i;
    const auto both = [&](auto columns) {
      const std::uint64_t upper = hopper::plain_operand(u + step_offset(2 * part + 1));
      const std::uint64_t lower = hopper::plain_operand(u + step_offset(2 * part));
      hopper::multiply_half<columns>(y, rows.a[2 * part + 1], upper, 2 * part + 1 != kSteps - 1);
      hopper::multiply_half<columns>(y, rows.a[2 * part], lower, 1);
    };
    if (part == 3)
      both(std::integral_constant<int, std::min(128, 32 * kParts)>());
    else if (part == 2)
      both(std::integral_constant<int, std::min(96, 32 * kParts)>());
    else if (part == 1)
      both(std::integral_constant<int, 64>());
    else
      both(std::integral_constant<int, 32>());
  }
  hopper::wgmma_commit();
  hopper::wgmma_wait<0>();
  hopper::pin(y);
}

/// Adds sqrt(v^T U v) of one head to norm [row g, g + 8].
template <int kParts>
__device__ __forceinline__ void add_head(const ScaledRows<kParts>& rows, std::uint32_t u, float unscale,
                                         float (&norm)[2]) {
  float y[16 * kParts];
  multiply<kParts>(y, rows, u);
  float square[2] = {};
#pragma unroll
  for (int i = 0; i < 8 * kParts; ++i) {
    const int half = i % 2;
    const float2 v = unpack_half(rows.a[i / 4][i % 4]);
    const int at = 4 * (i / 2) + 2 * half;
    square[half] += y[at] * v.x + y[at + 1] * v.y;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = square[half];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    norm[half] += root(fmaxf(sum * unscale, 0.0F)) * rows.unscale[half];
  }
}

/// Grid: shares of the rows, KV heads.
template <int kParts>
__global__ void __launch_bounds__(kThreads, 1) mean_norms_sm90(const NormKernel p) {
  extern __shared__ __align__(128) unsigned char raw[];
  const int head = blockIdx.y;
  const std::uint32_t triangles = hopper::shared_address(raw);
  const std::uint32_t barriers = triangles + p.group * kTriangleBytes<kParts>;
  if (threadIdx.x == 0) {
    for (int g = 0; g < p.group; ++g) hopper::barrier_init(barriers + 8 * g, 1);
    hopper::barrier_init_fence();
    const auto* from =
        reinterpret_cast<const unsigned char*>(p.u) + static_cast<long long>(head) * p.group * kTriangleBytes<kParts>;
    for (int g = 0; g < p.group; ++g) {
      hopper::barrier_expect(barriers + 8 * g, kTriangleBytes<kParts>);
      hopper::load_bytes(triangles + g * kTriangleBytes<kParts>, from + g * kTriangleBytes<kParts>,
                         kTriangleBytes<kParts>, barriers + 8 * g);
    }
  }
  __syncthreads();
  const int kinds = (p.out != nullptr ? 1 : 0) + (p.nov != nullptr ? 1 : 0);
  const long long units = (p.rows + kWarpgroupRows - 1) / kWarpgroupRows * kinds;
  const int warp_row = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
  for (long long unit = blockIdx.x * kWarpgroups + threadIdx.x / 128; unit < units; unit += gridDim.x * kWarpgroups) {
    const bool novelty = p.out == nullptr || unit % kinds != 0;
    const long long first = unit / kinds * kWarpgroupRows + warp_row;
    ScaledRows<kParts> rows;
    if (p.values.aligned)
      load_kind<true, kParts>(p, head, first, novelty, rows);
    else
      load_kind<false, kParts>(p, head, first, novelty, rows);
    prefetch_rows(p.v.head[head], p.values, (unit + gridDim.x * kWarpgroups) / kinds * kWarpgroupRows, p.rows);
    float norm[2] = {};
    for (int g = 0; g < p.group; ++g) {
      const float unscale = p.unscale[head * p.group + g];
      hopper::barrier_wait(barriers + 8 * g, 0);
      add_head<kParts>(rows, triangles + g * kTriangleBytes<kParts>, unscale, norm);
    }
    float* to = novelty ? p.nov : p.out;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const long long row = first + 8 * half + threadIdx.x % 32 / 4;
      if (threadIdx.x % 4 == 0 && row < p.rows) to[head * p.rows + row] = norm[half] / static_cast<float>(p.group);
    }
  }
}

std::int64_t shared_bytes(const HeadShape& shape) {
  return shape.group() * (value_norm_sm90_triangle_bytes(shape) + 8);
}

}  // namespace

std::int64_t value_norm_sm90_triangle_bytes(const HeadShape& shape) {
  return is_narrow(shape) ? kTriangleBytes<2> : kTriangleBytes<4>;
}

bool value_norm_sm90_takes(const Context& context, const HeadShape& shape) {
  return context.cuda->capability == 90 && shared_bytes(shape) <= static_cast<std::int64_t>(context.cuda->smem_bytes);
}

void value_norm_sm90_pack(const Context& context, const HeadShape& shape, const float* gram, void* triangles,
                          float* unscale) {
  const auto pack = is_narrow(shape) ? pack_lower<2> : pack_lower<4>;
  pack<<<static_cast<unsigned>(shape.heads), kPackThreads, 0, stream_of(context)>>>(
      gram, static_cast<int>(shape.head_dim), static_cast<uint4*>(triangles), unscale);
  check_launch("packing Gram matrices");
}

void value_norm_sm90(const Context& context, const HeadShape& shape, const NormKernel& p) {
  const auto norms = is_narrow(shape) ? mean_norms_sm90<2> : mean_norms_sm90<4>;
  const auto bytes = static_cast<std::size_t>(shared_bytes(shape));
  allow_shared(norms, bytes);
  const std::int64_t most = ceil_div(2 * ceil_div(p.rows, kWarpgroupRows), kWarpgroups);
  const std::int64_t share = std::clamp<std::int64_t>(context.cuda->sms / shape.kv_heads, 1, most);
  const dim3 grid(static_cast<unsigned>(share), static_cast<unsigned>(shape.kv_heads));
  norms<<<grid, kThreads, bytes, stream_of(context)>>>(p);
  check_launch("measuring values behind W_o");
}

}  // namespace purekv::cuda
