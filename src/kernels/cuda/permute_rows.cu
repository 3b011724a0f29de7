#include "kernels/permute_rows.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;

/// One block a row; T is the widest type that both strides and the row's bytes allow.
template <class T>
__global__ void permute_kernel(const T* in, std::int64_t in_stride, const std::int32_t* rows, std::int64_t group,
                               std::int64_t cols, T* out, std::int64_t out_stride) {
  const std::int64_t r = blockIdx.x;
  const T* from = in + (rows[r / group] * group + r % group) * in_stride;
  T* to = out + r * out_stride;
  for (std::int64_t i = threadIdx.x; i < cols; i += kThreads) to[i] = from[i];
}

template <class T>
void launch(const Context& context, const PermuteRowsParams& p, std::int64_t in_stride, std::int64_t cols,
            std::int64_t out_stride) {
  const auto size = static_cast<std::int64_t>(sizeof(T));
  permute_kernel<<<static_cast<unsigned>(p.out.rows), kThreads, 0, stream_of(context)>>>(
      static_cast<const T*>(p.in.data), in_stride / size, p.rows, p.group, cols / size, static_cast<T*>(p.out.data),
      out_stride / size);
}

}  // namespace

void permute_rows(const Context& context, const PermuteRowsParams& p) {
  if (p.out.rows == 0 || p.out.cols == 0) return;
  const auto element = static_cast<std::int64_t>(size_of(p.in.dtype));
  const std::int64_t in_stride = p.in.stride * element;
  const std::int64_t cols = p.in.cols * element;
  const std::int64_t out_stride = p.out.stride * element;
  const auto all = reinterpret_cast<std::uintptr_t>(p.in.data) | reinterpret_cast<std::uintptr_t>(p.out.data) |
                   static_cast<std::uintptr_t>(in_stride | cols | out_stride);
  if (all % 16 == 0)
    launch<uint4>(context, p, in_stride, cols, out_stride);
  else if (all % 4 == 0)
    launch<std::uint32_t>(context, p, in_stride, cols, out_stride);
  else
    launch<std::uint8_t>(context, p, in_stride, cols, out_stride);
  check_launch("permuting rows");
}

}  // namespace purekv::cuda
