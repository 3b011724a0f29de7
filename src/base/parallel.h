#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "base/thread_pool.h"

namespace purekv {

/// Runs body(i) for i in [0, count) on `threads` threads, dynamically shared. An exception of a
/// body is rethrown on the caller's thread after the others have finished.
template <class Body>
void parallel_for(int threads, std::int64_t count, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct Shared {
    const Body& body;
    std::atomic_flag failed;
    std::exception_ptr error;
  } shared{body, {}, nullptr};
  const auto task = [](void* data, std::int64_t i) {
    auto& s = *static_cast<Shared*>(data);
    try {
      s.body(i);
    } catch (...) {
      if (!s.failed.test_and_set()) s.error = std::current_exception();
    }
  };
  ThreadPool::shared().run(threads, count, task, &shared);
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace purekv
