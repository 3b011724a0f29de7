#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace purekv {
namespace {

class ParallelFor : public testing::TestWithParam<int> {};

TEST_P(ParallelFor, RunsEveryIndexOnce) {
  for (const std::int64_t count : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    parallel_for(GetParam(), count, [&](std::int64_t i) { ++seen[static_cast<std::size_t>(i)]; });
    for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
  }
}

TEST_P(ParallelFor, ManyShortCalls) {
  std::atomic<std::int64_t> sum{0};
  for (int call = 0; call < 5000; ++call) parallel_for(GetParam(), 3, [&](std::int64_t i) { sum += i; });
  EXPECT_EQ(sum.load(), 15000);
}

TEST_P(ParallelFor, RethrowsAfterAllHaveFinished) {
  std::atomic<int> done{0};
  const auto body = [&](std::int64_t i) {
    ++done;
    if (i % 10 == 3) throw std::runtime_error("three");
  };
  EXPECT_THROW(parallel_for(GetParam() + 1, 100, body), std::runtime_error);
  EXPECT_EQ(done.load(), 100);
  parallel_for(GetParam(), 10, [&](std::int64_t) { ++done; });  // the pool goes on
  EXPECT_EQ(done.load(), 110);
}

TEST_P(ParallelFor, ACallWithinACall) {
  std::atomic<int> done{0};
  parallel_for(GetParam(), 4, [&](std::int64_t) { parallel_for(GetParam(), 5, [&](std::int64_t) { ++done; }); });
  EXPECT_EQ(done.load(), 20);
}

TEST_P(ParallelFor, CallersOnSeveralThreads) {
  std::atomic<int> done{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int call = 0; call < 200; ++call) parallel_for(GetParam(), 5, [&](std::int64_t) { ++done; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(done.load(), 4000);
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace purekv
