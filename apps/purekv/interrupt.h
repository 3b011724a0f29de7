#pragma once

#include <atomic>

namespace purekv::app {

/// Ctrl-C: the first one sets the stop flag and starts a countdown of 2 s, after which the process
/// exits 130 whatever it is doing; the second one exits 130 at once. Call once, before any work.
void install_interrupt_handler();

/// What Progress::stop points to.
const std::atomic<bool>& stop_flag();

/// Throws Error(kInterrupted) where Ctrl-C was pressed: call it before a result is printed.
void check_interrupt();

}  // namespace purekv::app
