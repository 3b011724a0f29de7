#include "device/timer.h"

#include "device/cuda/calls.h"

namespace purekv {

struct Timer::Events {
  std::shared_ptr<void> pair;
};

Timer::Timer(const Context& context) : context_(context) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) events_ = std::make_unique<Events>(Events{cuda::make_events()});
}

Timer::~Timer() = default;

void Timer::start() {
  if constexpr (kHasCuda)
    if (events_) return cuda::record_start(*context_.cuda, events_->pair);
  begin_ = Clock::now();
}

double Timer::stop_ms() {
  if constexpr (kHasCuda)
    if (events_) return cuda::record_stop(*context_.cuda, events_->pair);
  return ms_since(begin_);
}

}  // namespace purekv
