#pragma once

#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"

namespace purekv {

/// Host to device; the host memory may be reused on return. Up to 2 MiB are only queued; more waits on CUDA for
/// everything queued before it. Never inside a Replay.
void upload(const Context& context, void* device, const void* host, std::int64_t bytes);
/// Device to host; waits for everything queued before it.
void download(const Context& context, void* host, const void* device, std::int64_t bytes);
/// Within the device.
void copy_bytes(const Context& context, void* to, const void* from, std::int64_t bytes);
void fill_zero(const Context& context, void* device, std::int64_t bytes);
/// Waits until everything queued is done; faults of earlier operations are thrown here.
void synchronize(const Context& context);

/// A device copy of a host array; empty for an empty one.
template <class T>
[[nodiscard]] Buffer to_device(const Context& context, const std::vector<T>& host, ByteCounter* counter = nullptr) {
  const auto bytes = static_cast<std::int64_t>(host.size() * sizeof(T));
  Buffer buffer(context, bytes, counter);
  upload(context, buffer.data(), host.data(), bytes);
  return buffer;
}

template <class T>
[[nodiscard]] std::vector<T> to_host(const Context& context, const void* device, std::int64_t count) {
  std::vector<T> host(static_cast<std::size_t>(count));
  download(context, host.data(), device, count * static_cast<std::int64_t>(sizeof(T)));
  return host;
}

}  // namespace purekv
