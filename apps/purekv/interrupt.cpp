#include "interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>

#include "errors.h"

namespace purekv::app {
namespace {

constexpr int kExitCode = static_cast<int>(ErrorKind::kInterrupted);
constexpr unsigned kGraceSeconds = 2;

std::atomic<bool> stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not lock");
std::array<int, 2> wake = {-1, -1};

extern "C" void on_interrupt(int /*signal*/) {
  if (stop.exchange(true)) _exit(kExitCode);
  const int saved = errno;
  // A pipe is the one way to wake a thread that a handler may use.
  const char byte = 1;
  [[maybe_unused]] const ssize_t written = write(wake[1], &byte, 1);
  errno = saved;
}

/// Waits for the first Ctrl-C, then for the work to end by itself.
void watch() {
  char byte = 0;
  while (read(wake[0], &byte, 1) < 0 && errno == EINTR) {
  }
  for (unsigned left = kGraceSeconds; left > 0;) left = sleep(left);
  constexpr std::string_view kMessage = "purekv: error: interrupted\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(kExitCode);
}

}  // namespace

void install_interrupt_handler() {
  if (pipe(wake.data()) != 0) fail(ErrorKind::kResource, "no pipe for the interrupt handler; close some files");
  // The signal must reach the main thread, whose blocking read it is to end; so the watcher blocks all.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread(watch).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  // Without SA_RESTART a read of standard input ends, so that waiting for a question can be left.
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

const std::atomic<bool>& stop_flag() { return stop; }

void check_interrupt() {
  if (stop.load()) fail(ErrorKind::kInterrupted, "interrupted");
}

}  // namespace purekv::app
