#include "device/fence.h"

#include "device/cuda/calls.h"

namespace purekv {

void Fence::record(const Context& context) {
  if constexpr (kHasCuda) {
    if (context.backend != Backend::kCuda) return;
    if (!event_) event_ = cuda::make_events();
    cuda::record_start(*context.cuda, event_);
  }
}

void Fence::wait() const {
  if constexpr (kHasCuda)
    if (event_) cuda::wait_for_start(event_);
}

}  // namespace purekv
