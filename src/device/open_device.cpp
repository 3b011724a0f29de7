#include "device/open_device.h"

#include <fmt/format.h>

#include "base/fail.h"
#include "device/cuda/open.h"
#include "device/memory.h"

namespace purekv {

std::optional<std::string> why_no_cuda() {
  if constexpr (kHasCuda) return cuda::why_unusable();
  return "this build has no CUDA backend";
}

CudaDevice* open_cuda_device() {
  if (const auto why = why_no_cuda()) fail(ErrorKind::kResource, "{}; use --device cpu", *why);
  if constexpr (kHasCuda) return cuda::open();
  return nullptr;
}

bool has_fp8(const Context& context) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::has_fp8(*context.cuda);
  return false;
}

std::string describe_device(const Context& context) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::describe(*context.cuda);
  return "cpu";
}

}  // namespace purekv
