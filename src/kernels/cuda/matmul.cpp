#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <mutex>

#include "base/fail.h"
#include "device/buffer.h"
#include "device/cuda/cuda_device.h"

namespace purekv::cuda {
namespace {

constexpr std::int64_t kWorkspace = 64LL << 20U;  ///< Hopper's split-k algorithms want 32 MiB or more

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::kResource, "cuBLASLt: {}: {}; use --device cpu", what, cublasLtGetStatusString(status));
}

cudaDataType_t type_of(DType type) {
  switch (type) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kFp8:
      return CUDA_R_8F_E4M3;
  }
  fail(ErrorKind::kInternal, "internal: a matrix product has no type {}", static_cast<int>(type));
}

/// The largest power of two up to 256 that divides an address and its row stride.
std::uint32_t alignment_of(const void* data, std::int64_t stride_bytes) {
  const auto bits = reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(stride_bytes) | 256U;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

std::int64_t stride_bytes(const ConstMatrixView& m) { return m.stride * static_cast<std::int64_t>(size_of(m.dtype)); }

using Key = std::array<std::int64_t, 14>;

Key key_of(const MatmulParams& p) {
  return {p.x.rows,
          p.x.cols,
          p.weight.rows,
          p.x.stride,
          p.weight.stride,
          p.out.stride,
          static_cast<std::int64_t>(p.x.dtype),
          static_cast<std::int64_t>(p.out.dtype),
          p.bias != nullptr ? 1 : 0,
          p.accumulate ? 1 : 0,
          alignment_of(p.x.data, stride_bytes(p.x)),
          alignment_of(p.weight.data, stride_bytes(p.weight)),
          alignment_of(p.out.data, stride_bytes(p.out)),
          0};
}

/// cuBLASLt reads columns: its A is the weight (transposed), its B is x, its D is out.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algo{};

  Plan() = default;
  Plan(Plan&& other) noexcept : product(other.product), a(other.a), b(other.b), d(other.d), algo(other.algo) {
    other.product = nullptr;
    other.a = other.b = other.d = nullptr;
  }
  Plan& operator=(Plan&&) = delete;
  Plan(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a, b, d})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    if (product != nullptr) cublasLtMatmulDescDestroy(product);
  }
};

template <class T>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name, const T& value) {
  check(cublasLtMatmulDescSetAttribute(product, name, &value, sizeof value), "describing a product");
}

cublasLtMatrixLayout_t layout(DType type, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  cublasLtMatrixLayout_t out = nullptr;
  check(cublasLtMatrixLayoutCreate(&out, type_of(type), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(cols), stride),
        "describing a matrix");
  return out;
}

void describe(const MatmulParams& p, Plan& plan) {
  check(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (p.x.dtype == DType::kFp8) {
    const cublasLtMatmulMatrixScale_t by_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    // Partial sums stay in the tensor cores (about 14 bits of fraction) instead of going to float32 every 128 values:
    // what inference engines run.
    const std::int8_t fast = 1;
    set(plan.product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, by_row);
    set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, by_row);
    set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales);
    set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
  }
  if (p.bias != nullptr) {
    const bool narrow = p.out.dtype == DType::kBF16 || p.x.dtype == DType::kFp8;
    set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, narrow ? CUDA_R_16BF : CUDA_R_32F);
    set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  }
  plan.a = layout(p.weight.dtype, p.weight.cols, p.weight.rows, p.weight.stride);
  plan.b = layout(p.x.dtype, p.x.cols, p.x.rows, p.x.stride);
  plan.d = layout(p.out.dtype, p.weight.rows, p.x.rows, p.out.stride);
}

/// The library's handle, its workspace and the plans met so far.
class Library {
 public:
  explicit Library(const Context& context) : workspace_(context, kWorkspace) {
    check(cublasLtCreate(&handle_), "starting the library");
    check(cublasLtMatmulPreferenceCreate(&preference_), "starting the library");
  }

  void multiply(const Context& context, const MatmulParams& p) {
    const std::lock_guard lock(mutex_);
    const Plan& plan = plan_for(p);
    if (p.x.dtype == DType::kFp8) {
      set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales);
      set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    if (p.bias != nullptr) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    const float alpha = 1;
    const float beta = p.accumulate ? 1.0F : 0.0F;
    check(cublasLtMatmul(handle_, plan.product, &alpha, p.weight.data, plan.a, p.x.data, plan.b, &beta, p.out.data,
                         plan.d, p.out.data, plan.d, &plan.algo, workspace_.data(),
                         static_cast<std::size_t>(kWorkspace), stream_of(context)),
          "a matrix product");
  }

 private:
  const Plan& plan_for(const MatmulParams& p) {
    const Key key = key_of(p);
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    Plan plan;
    describe(p, plan);
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspace));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key[11]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key[10]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key[12]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key[12]));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, plan.product, plan.a, plan.b, plan.d, plan.d, preference_, 1, &best,
                                         &found),
          "choosing an algorithm");
    if (found == 0)
      fail(ErrorKind::kResource, "cuBLASLt has no product of {} x {} by {} in {}; use --device cpu", p.x.rows, p.x.cols,
           p.weight.rows, name_of(p.x.dtype));
    plan.algo = best.algo;
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  template <class T>
  void prefer(cublasLtMatmulPreferenceAttributes_t name, T value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference_, name, &value, sizeof value), "choosing an algorithm");
  }

  Buffer workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  std::mutex mutex_;
  std::map<Key, Plan> plans_;
};

}  // namespace

void matmul(const Context& context, const MatmulParams& p) {
  PUREKV_ASSERT(p.x.dtype == p.weight.dtype && p.x.cols == p.weight.cols);
  PUREKV_ASSERT(p.x.rows == p.out.rows && p.weight.rows == p.out.cols);
  // Lives as long as the device, which is never closed: no order of destruction to get wrong.
  static auto* library = new Library(context);
  library->multiply(context, p);
}

}  // namespace purekv::cuda
