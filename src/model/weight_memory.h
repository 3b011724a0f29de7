#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "device/buffer.h"
#include "device/context.h"
#include "model/weights.h"

namespace purekv {

/// Where a model's matrices come to lie: in place on the CPU, in new memory of the device elsewhere.
class WeightMemory {
 public:
  /// `linear_dtype`: of linear layers on a GPU, bf16 or fp8; other matrices are bf16 there.
  WeightMemory(const Context& context, DType linear_dtype, std::vector<Matrix>& owned);

  /// Whether matrices stay where the file has them.
  [[nodiscard]] bool in_place() const { return context_.backend == Backend::kCpu; }
  /// A table (embedding, head, patch kernel), as it is or in bf16.
  ConstMatrixView table(const ConstMatrixView& host);
  /// Host matrices one below the other as one linear layer, with rows up to `rows` and columns up to `cols` filled
  /// with zeros (0: no padding). Biases are joined and padded alike; none where `bias` is empty.
  LinearWeight linear(std::span<const ConstMatrixView> parts, std::span<const float> bias, std::int64_t rows = 0,
                      std::int64_t cols = 0);
  /// A float32 vector in the context's memory.
  [[nodiscard]] Buffer vector(const std::vector<float>& host) const { return to_device_floats(host); }

 private:
  [[nodiscard]] Buffer to_device_floats(std::span<const float> host) const;
  MatrixView take(DType dtype, std::int64_t rows, std::int64_t cols);
  void fill(const ConstMatrixView& host, const MatrixView& out) const;

  Context context_;
  DType linear_dtype_;
  std::vector<Matrix>& owned_;
  mutable std::vector<std::uint16_t> staging_;
};

}  // namespace purekv
