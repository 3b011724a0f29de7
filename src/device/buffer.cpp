#include "device/buffer.h"

#include <cstdlib>

#include "base/fail.h"

namespace purekv {

Buffer::Buffer(const Context& /*context*/, std::int64_t bytes, ByteCounter* counter)
    : bytes_(bytes), counter_(counter) {
  if (bytes < 0)
    fail(ErrorKind::kResource, "a buffer of {} bytes was asked for; the sizes of this prompt overflow", bytes);
  if (bytes == 0) return;
  constexpr std::size_t kAlign = 64;
  const std::size_t padded = (static_cast<std::size_t>(bytes) + kAlign - 1) / kAlign * kAlign;
  data_ = std::aligned_alloc(kAlign, padded);
  if (data_ == nullptr)
    fail(ErrorKind::kResource, "out of memory: {} bytes asked; lower --max-pixels, --frames or --budget", bytes);
  if (counter_ != nullptr) counter_->take(bytes_);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  std::free(data_);  // NOLINT(cppcoreguidelines-no-malloc): the pair of aligned_alloc
  if (counter_ != nullptr) counter_->give(bytes_);
}

}  // namespace purekv
