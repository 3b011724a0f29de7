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

void Timer::stop() {
  if constexpr (kHasCuda)
    if (events_) return cuda::record_stop(*context_.cuda, events_->pair);
  host_ms_ = ms_since(begin_);
}

double Timer::ms() const {
  if constexpr (kHasCuda)
    if (events_) return cuda::elapsed_ms(events_->pair);
  return host_ms_;
}

}  // namespace purekv
