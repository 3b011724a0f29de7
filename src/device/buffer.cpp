#include "device/buffer.h"

#include <cstdlib>

#include "base/fail.h"
#include "device/cuda/calls.h"

namespace purekv {

namespace {

void* allocate_host(std::int64_t bytes) {
  constexpr std::size_t kAlign = 64;
  const std::size_t padded = (static_cast<std::size_t>(bytes) + kAlign - 1) / kAlign * kAlign;
  void* memory = std::aligned_alloc(kAlign, padded);
  if (memory == nullptr)
    fail(ErrorKind::kResource, "out of memory: {} bytes asked; lower --max-pixels, --frames or --budget", bytes);
  return memory;
}

}  // namespace

Buffer::Buffer(const Context& context, std::int64_t bytes, ByteCounter* counter)
    : bytes_(bytes), counter_(counter), cuda_(context.cuda) {
  if (bytes < 0)
    fail(ErrorKind::kResource, "a buffer of {} bytes was asked for; the sizes of this prompt overflow", bytes);
  if (bytes == 0) return;
  if constexpr (kHasCuda)
    if (cuda_ != nullptr) data_ = cuda::allocate(*cuda_, bytes);
  if (cuda_ == nullptr) data_ = allocate_host(bytes);
  if (counter_ != nullptr) counter_->take(bytes_);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if constexpr (kHasCuda)
    if (cuda_ != nullptr) cuda::release(*cuda_, data_);
  if (cuda_ == nullptr) std::free(data_);  // NOLINT(cppcoreguidelines-no-malloc): the pair of aligned_alloc
  if (counter_ != nullptr) counter_->give(bytes_);
}

}  // namespace purekv
