#pragma once

#include <memory>

#include "device/context.h"

namespace purekv {

/// A point in what is queued that the host can wait for. On the CPU everything is done when it is called.
class Fence {
 public:
  /// Marks the end of what is queued now.
  void record(const Context& context);
  /// Waits for the last mark; at once where there is none. Faults of earlier operations are thrown here.
  void wait() const;

 private:
  std::shared_ptr<void> event_;
};

}  // namespace purekv
