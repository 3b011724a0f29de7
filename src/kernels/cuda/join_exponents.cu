#include "kernels/cuda/join_exponents.h"

#include <cuda_fp8.h>

#include "base/fail.h"
#include "kernels/cuda/launch.h"

namespace purekv::cuda {
namespace {

constexpr int kWarps = 8;  ///< of a block, a row each
constexpr int kPieceLanes = PieceExponents::kCols / 16;
constexpr int kPiecesAtOnce = 32 / kPieceLanes;

struct JoinKernel {
  unsigned char* x;
  std::int64_t stride, rows;
  PieceExponents exponents;
  int pieces;
  int cols;
  float* scales;
};

/// 2^exponent; 0 below float32's normal numbers.
__device__ float power_of_two(int exponent) { return __int_as_float(max(exponent + 127, 0) << 23); }

/// Four elements times a factor of at most 1; NaN stays.
__device__ unsigned scaled(unsigned four, float factor) {
  __nv_fp8x4_e4m3 x;
  x.__x = four;
  const auto v = static_cast<float4>(x);
  return __nv_fp8x4_e4m3(make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor)).__x;
}

/// Brings pieces [begin, begin + kPiecesAtOnce) from `own` of this lane's piece to `most`.
__device__ void join_pieces(const JoinKernel& p, std::int64_t row, int begin, int own, int most) {
  const int col = begin * PieceExponents::kCols + static_cast<int>(threadIdx.x) % 32 * 16;
  if (own == most || col >= p.cols) return;
  auto* at = reinterpret_cast<uint4*>(p.x + row * p.stride + col);
  const uint4 codes = *at;
  const float factor = power_of_two(own - most);
  *at = {scaled(codes.x, factor), scaled(codes.y, factor), scaled(codes.z, factor), scaled(codes.w, factor)};
}

/// Grid: rows by 8. 16 columns a lane.
__global__ void __launch_bounds__(32 * kWarps) join_kernel(const JoinKernel p) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int mine = static_cast<int>(threadIdx.x) % 32 / kPieceLanes;  // of the pieces at once
  const auto exponent = [&](int piece) -> int { return p.exponents.of_piece[piece * p.rows + row]; };
  const bool is_first = mine < min(PieceExponents::kFirst, p.pieces);
  int own = is_first ? exponent(mine) : PieceExponents::kAsBase;
  const int widest = p.exponents.widest[row];
  const int base = __reduce_max_sync(~0U, own);
  const int most = max(base, widest);
  if (threadIdx.x % 32 == 0) p.scales[row] = power_of_two(most);
  if (is_first) join_pieces(p, row, 0, own, most);
  if (widest <= base) return;
  for (int begin = PieceExponents::kFirst; begin < p.pieces; begin += kPiecesAtOnce) {
    own = begin + mine < p.pieces ? exponent(begin + mine) : most;
    join_pieces(p, row, begin, own == PieceExponents::kAsBase ? base : own, most);
  }
}

}  // namespace

PieceExponentBuffer::PieceExponentBuffer(const Context& context, std::int64_t rows, std::int64_t pieces)
    : memory(context, rows * (pieces + static_cast<std::int64_t>(sizeof(std::int32_t)))) {
  auto* widest = memory.as<std::int32_t>();
  view = {.of_piece = reinterpret_cast<std::int8_t*>(widest + rows), .widest = widest};
  cuda_check(cudaMemsetAsync(memory.data(), 0x80, static_cast<std::size_t>(memory.bytes()), stream_of(context)),
             "clearing exponents");
}

void join_exponents(const Context& context, const MatrixView& x, const PieceExponents& exponents, float* scales) {
  PUREKV_ASSERT(x.dtype == DType::kFp8 && x.cols % 16 == 0 && x.stride % 16 == 0);
  if (x.rows == 0 || x.cols == 0) return;
  const JoinKernel p{.x = static_cast<unsigned char*>(x.data),
                     .stride = x.stride,
                     .rows = x.rows,
                     .exponents = exponents,
                     .pieces = static_cast<int>(ceil_div(x.cols, PieceExponents::kCols)),
                     .cols = static_cast<int>(x.cols),
                     .scales = scales};
  join_kernel<<<static_cast<unsigned>(ceil_div(x.rows, kWarps)), 32 * kWarps, 0, stream_of(context)>>>(p);
  check_launch("joining exponents");
}

}  // namespace purekv::cuda
