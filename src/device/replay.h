#pragma once

#include <functional>
#include <memory>

#include "device/context.h"

namespace purekv {

/// A fixed sequence of operations on fixed addresses. On CUDA it is captured into a graph the first time and only
/// launched after that, so that one decode step costs one launch; the CPU runs `body` each time. `body` must not
/// transfer to or from the host nor wait; what memory it takes it gives back.
class Replay {
 public:
  Replay();
  Replay(Replay&&) noexcept;
  Replay& operator=(Replay&&) noexcept;
  ~Replay();
  void run(const Context& context, const std::function<void()>& body);

 private:
  struct Graph;
  std::unique_ptr<Graph> graph_;
};

}  // namespace purekv
