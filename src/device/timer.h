#pragma once

#include <memory>

#include "base/stopwatch.h"
#include "device/context.h"

namespace purekv {

/// Time that the device spends on what is queued between start() and stop_ms(), by the device's own clock.
class Timer {
 public:
  explicit Timer(const Context& context);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start();
  /// Waits for the device; milliseconds since start().
  [[nodiscard]] double stop_ms();

 private:
  struct Events;
  Context context_;
  Clock::time_point begin_;
  std::unique_ptr<Events> events_;
};

}  // namespace purekv
