#pragma once

#include <cstdint>
#include <string_view>

#include "device/context.h"

namespace purekv {

/// Bytes that this process could still take on the context's device (what the system calls
/// available, within the process's address-space limit).
std::int64_t available_bytes(const Context& context);

/// Throws Error(kResource) with bytes needed, bytes available and `remedy` where they do not fit.
void require_bytes(const Context& context, std::int64_t bytes, std::string_view what, std::string_view remedy);

/// Cores that this process may use.
int usable_cores();

}  // namespace purekv
