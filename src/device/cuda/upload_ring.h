#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace purekv::cuda {

/// Pinned host memory that middling uploads pass through. A copy of more than 64 KiB from pageable memory waits for
/// everything on the stream; one from here is only queued, and the caller's bytes are free at once.
/// The ring is filled section by section. Leaving a section records an event and entering one waits for its event, so
/// the host waits only where it is seven sections ahead of the GPU.
class UploadRing {
 public:
  static constexpr std::int64_t kSectionBytes = std::int64_t{512} << 10;
  static constexpr int kSections = 8;
  /// Up to this the driver takes pageable bytes along with its commands and waits for nothing either. Measured between
  /// two kernels on Hopper: 1.3 us for 192 bytes and 6 us for 64 KiB, from the ring 2.3 and 12 us.
  static constexpr std::int64_t kInlineBytes = std::int64_t{64} << 10;
  /// The most one upload passes through: beyond that the copy takes longer than the wait that it saves.
  static constexpr std::int64_t kMostBytes = 4 * kSectionBytes;

  UploadRing() = default;
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  /// Takes the memory, for the life of the process. Throws Error(kResource) where that fails.
  void open();
  /// Queues the copy of `bytes` (at most kMostBytes) on `stream`, always the same one. Not inside a graph's capture.
  void upload(cudaStream_t stream, void* to, const void* from, std::int64_t bytes);

 private:
  void enter_next_section(cudaStream_t stream);

  std::byte* memory_ = nullptr;
  std::array<cudaEvent_t, kSections> left_{};  ///< last copy out of the section; never recorded: free
  std::size_t section_ = 0;
  std::int64_t used_ = 0;  ///< bytes of the section
};

}  // namespace purekv::cuda
