#include "device/transfer.h"

#include <cstring>

#include "device/cuda/calls.h"

namespace purekv {
namespace {

void copy_host(void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

}  // namespace

void upload(const Context& context, void* device, const void* host, std::int64_t bytes) {
  if constexpr (kHasCuda)
    if (bytes > 0 && context.backend == Backend::kCuda) return cuda::upload(*context.cuda, device, host, bytes);
  copy_host(device, host, bytes);
}

void download(const Context& context, void* host, const void* device, std::int64_t bytes) {
  if constexpr (kHasCuda)
    if (bytes > 0 && context.backend == Backend::kCuda) return cuda::download(*context.cuda, host, device, bytes);
  copy_host(host, device, bytes);
}

void copy_bytes(const Context& context, void* to, const void* from, std::int64_t bytes) {
  if constexpr (kHasCuda)
    if (bytes > 0 && context.backend == Backend::kCuda) return cuda::copy(*context.cuda, to, from, bytes);
  copy_host(to, from, bytes);
}

void fill_zero(const Context& context, void* device, std::int64_t bytes) {
  if constexpr (kHasCuda)
    if (bytes > 0 && context.backend == Backend::kCuda) return cuda::fill_zero(*context.cuda, device, bytes);
  if (bytes > 0) std::memset(device, 0, static_cast<std::size_t>(bytes));
}

void synchronize(const Context& context) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) cuda::synchronize(*context.cuda);
}

}  // namespace purekv
