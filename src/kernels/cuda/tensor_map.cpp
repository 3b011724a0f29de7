#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "base/fail.h"
#include "device/cuda/cuda_device.h"

namespace purekv::cuda {
namespace {

constexpr std::int64_t kBoxBytes = 128;

/// The driver's encoder, without linking the driver.
auto encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
               "looking up cuTensorMapEncodeTiled");
    PUREKV_ASSERT(result == cudaDriverEntryPointSuccess);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  return encode;
}

std::int64_t elements_between(const void* from, const void* to) {
  return (static_cast<const std::byte*>(to) - static_cast<const std::byte*>(from)) / 2;
}

}  // namespace

CUtensorMap make_tensor_map(const void* data, DType type, std::int64_t x, Extent y, Extent z, std::int64_t y_box,
                            std::int64_t z_box) {
  PUREKV_ASSERT(type == DType::kBF16 || type == DType::kFp8);
  const auto element = static_cast<std::int64_t>(size_of(type));
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(x), static_cast<cuuint64_t>(y.size),
                               static_cast<cuuint64_t>(z.size)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(y.stride * element),
                                 static_cast<cuuint64_t>(z.stride * element)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(kBoxBytes / element), static_cast<cuuint32_t>(y_box),
                             static_cast<cuuint32_t>(z_box)};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder()(&map, type == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 3,
                const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PUREKV_ASSERT(result == CUDA_SUCCESS);
  return map;
}

std::int64_t head_stride(const KvView& view, const void* KvHeadView::*which) {
  if (view.heads.size() < 2) return view.heads[0].rows * view.heads[0].stride;
  return elements_between(view.heads[0].*which, view.heads[1].*which);
}

bool is_one_tensor(const KvView& view, std::int64_t head_dim) {
  const KvHeadView& first = view.heads[0];
  for (const auto which : {&KvHeadView::k, &KvHeadView::v}) {
    const std::int64_t stride = head_stride(view, which);
    if (stride <= 0 || stride % 8 != 0 || !is_box_aligned(first.*which)) return false;
    for (std::size_t h = 0; h < view.heads.size(); ++h)
      if (elements_between(first.*which, view.heads[h].*which) != static_cast<std::int64_t>(h) * stride) return false;
  }
  for (const KvHeadView& head : view.heads)
    if (head.rows != first.rows || head.stride != first.stride) return false;
  return first.rows > 0 && first.stride >= head_dim && first.stride % 8 == 0;
}

}  // namespace purekv::cuda
