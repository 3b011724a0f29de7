#include "device/cuda/open.h"

#include <fmt/format.h>

#include "base/fail.h"
#include "device/cuda/cuda_device.h"

namespace purekv {

void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is no fault of the device must not meet the next call
  fail(ErrorKind::kResource, "CUDA: {}: {} ({}); use --device cpu", what, cudaGetErrorString(status),
       cudaGetErrorName(status));
}

namespace cuda {
namespace {

constexpr int kLeastCapability = 80;

/// Version 13020 reads 13.2.
std::string version(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

int capability_of(int ordinal) {
  int major = 0;
  int minor = 0;
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal), "reading the GPU's version");
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal), "reading the GPU's version");
  return 10 * major + minor;
}

int attribute(cudaDeviceAttr name, int ordinal) {
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, name, ordinal), "reading an attribute of the GPU");
  return value;
}

CudaDevice make_device() {
  CudaDevice device;
  cuda_check(cudaSetDevice(device.ordinal), "choosing the GPU");
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, device.ordinal), "reading the GPU's properties");
  device.name = properties.name;
  device.capability = capability_of(device.ordinal);
  device.sms = attribute(cudaDevAttrMultiProcessorCount, device.ordinal);
  device.l2_bytes = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize, device.ordinal));
  device.smem_bytes = static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.ordinal));
  cuda_check(cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking), "making a stream");
  cuda_check(cudaDeviceGetDefaultMemPool(&device.pool, device.ordinal), "reading the memory pool");
  // Freed blocks stay in the pool: a prefill takes and gives scratch once a layer.
  std::uint64_t keep = ~std::uint64_t{0};
  cuda_check(cudaMemPoolSetAttribute(device.pool, cudaMemPoolAttrReleaseThreshold, &keep), "setting the memory pool");
  device.uploads = std::make_shared<UploadRing>();
  device.uploads->open();
  return device;
}

}  // namespace

std::optional<std::string> why_unusable() {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver was found";
  if (driver / 1000 < runtime / 1000)
    return fmt::format("the NVIDIA driver supports CUDA {}, this build needs {} or newer", version(driver),
                       version(runtime / 1000 * 1000));
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return fmt::format("no usable GPU: {}", cudaGetErrorString(status));
  }
  if (count == 0) return "no NVIDIA GPU was found";
  const int capability = capability_of(0);
  if (capability < kLeastCapability)
    return fmt::format("the GPU has compute capability {}.{}, {}.{} or newer is needed", capability / 10,
                       capability % 10, kLeastCapability / 10, kLeastCapability % 10);
  return std::nullopt;
}

CudaDevice* open() {
  static CudaDevice device = make_device();
  return &device;
}

bool has_fp8(const CudaDevice& device) {
  constexpr int kFp8Capability = 89;
  return device.capability >= kFp8Capability;
}

std::string describe(const CudaDevice& device) {
  std::size_t free = 0;
  std::size_t total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "reading the GPU's memory");
  return fmt::format("{}, {:.1f} GiB", device.name, static_cast<double>(total) / (1ULL << 30U));
}

}  // namespace cuda
}  // namespace purekv
