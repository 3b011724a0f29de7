#include "device/replay.h"

#include "device/cuda/calls.h"

namespace purekv {

struct Replay::Graph {
  std::shared_ptr<void> executable;
};

Replay::Replay() = default;
Replay::Replay(Replay&&) noexcept = default;
Replay& Replay::operator=(Replay&&) noexcept = default;
Replay::~Replay() = default;

void Replay::run(const Context& context, const std::function<void()>& body) {
  if constexpr (kHasCuda) {
    if (context.backend == Backend::kCuda) {
      if (!graph_) graph_ = std::make_unique<Graph>(Graph{cuda::capture(*context.cuda, body)});
      cuda::launch(*context.cuda, graph_->executable);
      return;
    }
  }
  body();
}

}  // namespace purekv
