#include "device/cuda/calls.h"

#include "base/fail.h"
#include "device/cuda/cuda_device.h"

namespace purekv::cuda {
namespace {

std::size_t size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }

/// What the pool holds and nobody uses counts as free: it is given out again.
std::int64_t idle_in_pool(const CudaDevice& device) {
  std::uint64_t reserved = 0;
  std::uint64_t used = 0;
  cuda_check(cudaMemPoolGetAttribute(device.pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "reading the pool");
  cuda_check(cudaMemPoolGetAttribute(device.pool, cudaMemPoolAttrUsedMemCurrent, &used), "reading the pool");
  return static_cast<std::int64_t>(reserved - used);
}

struct Events {
  cudaEvent_t start = nullptr, stop = nullptr;
  Events() {
    cuda_check(cudaEventCreate(&start), "making an event");
    cuda_check(cudaEventCreate(&stop), "making an event");
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
  ~Events() {
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
  }
};

}  // namespace

void* allocate(CudaDevice& device, std::int64_t bytes) {
  void* memory = nullptr;
  if (cudaMallocAsync(&memory, size(bytes), device.stream) == cudaSuccess) return memory;
  cudaGetLastError();
  // Freed blocks of other sizes may lie idle in the pool: hand them back to the driver and ask once more.
  cuda_check(cudaStreamSynchronize(device.stream), "waiting for the GPU");
  cuda_check(cudaMemPoolTrimTo(device.pool, 0), "trimming the memory pool");
  const cudaError_t status = cudaMallocAsync(&memory, size(bytes), device.stream);
  if (status == cudaSuccess) return memory;
  cudaGetLastError();
  if (status != cudaErrorMemoryAllocation) cuda_check(status, "taking memory");
  fail(ErrorKind::kResource,
       "out of GPU memory: {} bytes asked, {} free; lower --budget, --max-pixels or --frames, or use --weights fp8",
       bytes, free_bytes(device));
}

void release(CudaDevice& device, void* memory) noexcept { cudaFreeAsync(memory, device.stream); }

std::int64_t free_bytes(CudaDevice& device) {
  std::size_t free = 0;
  std::size_t total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "reading the GPU's memory");
  return static_cast<std::int64_t>(free) + idle_in_pool(device);
}

void upload(CudaDevice& device, void* to, const void* from, std::int64_t bytes) {
  cudaStreamCaptureStatus capturing{};
  cuda_check(cudaStreamIsCapturing(device.stream, &capturing), "asking for a capture");
  PUREKV_ASSERT(capturing == cudaStreamCaptureStatusNone);  // a replay would read host memory that is long gone
  if (bytes > UploadRing::kInlineBytes && bytes <= UploadRing::kMostBytes)
    return device.uploads->upload(device.stream, to, from, bytes);
  // Pageable memory: the runtime has staged the host's bytes when this returns.
  cuda_check(cudaMemcpyAsync(to, from, size(bytes), cudaMemcpyHostToDevice, device.stream), "copying to the GPU");
}

void download(CudaDevice& device, void* to, const void* from, std::int64_t bytes) {
  cuda_check(cudaMemcpyAsync(to, from, size(bytes), cudaMemcpyDeviceToHost, device.stream), "copying from the GPU");
  cuda_check(cudaStreamSynchronize(device.stream), "waiting for the GPU");
}

void copy(CudaDevice& device, void* to, const void* from, std::int64_t bytes) {
  cuda_check(cudaMemcpyAsync(to, from, size(bytes), cudaMemcpyDeviceToDevice, device.stream), "copying on the GPU");
}

void fill_zero(CudaDevice& device, void* memory, std::int64_t bytes) {
  cuda_check(cudaMemsetAsync(memory, 0, size(bytes), device.stream), "clearing GPU memory");
}

void synchronize(CudaDevice& device) { cuda_check(cudaStreamSynchronize(device.stream), "waiting for the GPU"); }

std::shared_ptr<void> capture(CudaDevice& device, const std::function<void()>& body) {
  cuda_check(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal), "beginning a graph");
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(device.stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  cuda_check(cudaStreamEndCapture(device.stream, &graph), "ending a graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  cuda_check(status, "making a graph");
  return {static_cast<void*>(executable), [](void* e) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(e)); }};
}

void launch(CudaDevice& device, const std::shared_ptr<void>& graph) {
  cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.get()), device.stream), "launching a graph");
}

std::shared_ptr<void> make_events() { return std::make_shared<Events>(); }

void record_start(CudaDevice& device, const std::shared_ptr<void>& events) {
  cuda_check(cudaEventRecord(static_cast<Events*>(events.get())->start, device.stream), "recording an event");
}

void wait_for_start(const std::shared_ptr<void>& events) {
  cuda_check(cudaEventSynchronize(static_cast<const Events*>(events.get())->start), "waiting for the GPU");
}

void record_stop(CudaDevice& device, const std::shared_ptr<void>& events) {
  cuda_check(cudaEventRecord(static_cast<Events*>(events.get())->stop, device.stream), "recording an event");
}

double elapsed_ms(const std::shared_ptr<void>& events) {
  const auto* pair = static_cast<const Events*>(events.get());
  cuda_check(cudaEventSynchronize(pair->stop), "waiting for the GPU");
  float ms = 0;
  cuda_check(cudaEventElapsedTime(&ms, pair->start, pair->stop), "reading an event");
  return static_cast<double>(ms);
}

}  // namespace purekv::cuda
