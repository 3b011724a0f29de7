#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace purekv {

/// Helper threads that sleep between calls. OpenMP's own wait actively for milliseconds, or for ever by the
/// environment's choice: beside another busy process a small model ran 100 times slower under them. A helper that
/// the system does not run is not waited for: whoever is awake takes the work.
class ThreadPool {
 public:
  using Task = void (*)(void* data, std::int64_t index);  ///< must not throw

  static ThreadPool& shared() {
    static ThreadPool pool;
    return pool;
  }

  /// Runs task(data, i) for i in [0, count) on the caller and at most threads - 1 helpers. A call from within a task,
  /// or while another thread's call runs, takes no helper.
  void run(int threads, std::int64_t count, Task task, void* data) {
    Job job{task, data, count, threads - 1};
    if (threads <= 1 || count <= 1 || busy_.test_and_set()) return work(job);
    grow(static_cast<std::size_t>(threads) - 1);
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      calls_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(job);
    {
      const std::lock_guard lock(mutex_);
      job_ = nullptr;  // from here on nobody joins
    }
    for (int spin = 0; spin < kSpins && job.inside.load(std::memory_order_acquire) > 0; ++spin) pause();
    if (job.inside.load(std::memory_order_acquire) > 0) {
      std::unique_lock lock(mutex_);
      left_.wait(lock, [&] { return job.inside.load(std::memory_order_acquire) == 0; });
    }
    busy_.clear();
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

 private:
  /// About 20 us: longer than from one operation of a decode step to the next, shorter than anyone notices.
  static constexpr int kSpins = 1000;

  struct Job {
    Task task;
    void* data;
    std::int64_t count;
    int seats;  ///< helpers that may still join
    std::atomic<std::int64_t> next{0};
    std::atomic<int> inside{0};
  };

  ThreadPool() = default;
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
      calls_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  static void work(Job& job) {
    for (std::int64_t i = 0; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) job.task(job.data, i);
  }

  /// Signals stay with the threads that the program made itself.
  void grow(std::size_t count) {
    if (helpers_.size() >= count) return;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (helpers_.size() < count) helpers_.emplace_back([this, seen = calls_.load()] { help(seen); });
    } catch (const std::system_error&) {
      // No thread left under the process's limits: those that there are do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void help(std::uint64_t seen) {
    while (true) {
      for (int spin = 0; spin < kSpins && calls_.load(std::memory_order_acquire) == seen; ++spin) pause();
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return calls_.load(std::memory_order_acquire) != seen; });
      seen = calls_.load(std::memory_order_acquire);
      if (ends_) return;
      if (job_ == nullptr || job_->seats == 0) continue;
      Job& job = *job_;
      --job.seats;
      job.inside.fetch_add(1, std::memory_order_acq_rel);
      lock.unlock();
      work(job);
      lock.lock();
      if (job.inside.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::atomic<std::uint64_t> calls_{0};
  std::atomic_flag busy_;
  Job* job_ = nullptr;  ///< under mutex_
  bool ends_ = false;   ///< under mutex_
  std::vector<std::thread> helpers_;
};

}  // namespace purekv
