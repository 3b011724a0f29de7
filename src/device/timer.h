#pragma once

#include <memory>

#include "base/stopwatch.h"
#include "device/context.h"

namespace purekv {

/// Time that the device spends on what is queued between start() and stop(), by the device's own clock.
class Timer {
 public:
  explicit Timer(const Context& context);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  void start();
  /// Does not wait for the device.
  void stop();
  /// Milliseconds from start() to stop(); waits for the device to reach it.
  [[nodiscard]] double ms() const;
  [[nodiscard]] double stop_ms() {
    stop();
    return ms();
  }

 private:
  struct Events;
  Context context_;
  Clock::time_point begin_;
  double host_ms_ = 0;
  std::unique_ptr<Events> events_;
};

}  // namespace purekv
