#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "device/context.h"

/// What the device layer asks of the CUDA runtime, free of its headers so that any file may include it.
namespace purekv::cuda {

void* allocate(CudaDevice& device, std::int64_t bytes);  ///< throws Error(kResource): bytes asked and free
void release(CudaDevice& device, void* memory) noexcept;
std::int64_t free_bytes(CudaDevice& device);
void upload(CudaDevice& device, void* to, const void* from, std::int64_t bytes);
void download(CudaDevice& device, void* to, const void* from, std::int64_t bytes);
void copy(CudaDevice& device, void* to, const void* from, std::int64_t bytes);
void fill_zero(CudaDevice& device, void* memory, std::int64_t bytes);
void synchronize(CudaDevice& device);

/// An executable graph of what `body` queues.
std::shared_ptr<void> capture(CudaDevice& device, const std::function<void()>& body);
void launch(CudaDevice& device, const std::shared_ptr<void>& graph);

/// Two events; elapsed_ms waits for the second.
std::shared_ptr<void> make_events();
void record_start(CudaDevice& device, const std::shared_ptr<void>& events);
void wait_for_start(const std::shared_ptr<void>& events);
void record_stop(CudaDevice& device, const std::shared_ptr<void>& events);
double elapsed_ms(const std::shared_ptr<void>& events);

}  // namespace purekv::cuda
