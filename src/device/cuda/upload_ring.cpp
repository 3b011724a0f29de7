#include "device/cuda/upload_ring.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "device/cuda/cuda_device.h"

namespace purekv::cuda {
namespace {

/// Copies begin on boundaries that the copy engine likes.
constexpr std::int64_t kAlignment = 256;

}  // namespace

void UploadRing::open() {
  void* memory = nullptr;
  cuda_check(cudaMallocHost(&memory, static_cast<std::size_t>(kSections * kSectionBytes)), "taking pinned host memory");
  memory_ = static_cast<std::byte*>(memory);
  for (cudaEvent_t& event : left_)
    cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
}

void UploadRing::enter_next_section(cudaStream_t stream) {
  cuda_check(cudaEventRecord(left_[section_], stream), "recording an event");
  section_ = (section_ + 1) % kSections;
  used_ = 0;
  cuda_check(cudaEventSynchronize(left_[section_]), "waiting for the GPU");
}

void UploadRing::upload(cudaStream_t stream, void* to, const void* from, std::int64_t bytes) {
  PUREKV_ASSERT(bytes <= kMostBytes);
  for (std::int64_t done = 0; done < bytes;) {
    if (used_ == kSectionBytes) enter_next_section(stream);
    const auto count = static_cast<std::size_t>(std::min(bytes - done, kSectionBytes - used_));
    std::byte* staged = memory_ + static_cast<std::int64_t>(section_) * kSectionBytes + used_;
    std::memcpy(staged, static_cast<const std::byte*>(from) + done, count);
    cuda_check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staged, count, cudaMemcpyHostToDevice, stream),
               "copying to the GPU");
    done += static_cast<std::int64_t>(count);
    used_ =
        std::min(kSectionBytes, (used_ + static_cast<std::int64_t>(count) + kAlignment - 1) / kAlignment * kAlignment);
  }
}

}  // namespace purekv::cuda
