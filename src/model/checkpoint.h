#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"

namespace purekv {

/// A tensor inside a mapped file.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
};

/// The safetensors files of a directory, memory-mapped read only, never copied. Names are
/// canonical: `visual.*`, `model.*`, `lm_head.weight`, whatever prefix of docs/model.md the files use.
class Checkpoint {
 public:
  /// Throws Error(kInput) with file, offset or tensor, the values found and the remedy.
  static Checkpoint open(const std::string& model_dir);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  [[nodiscard]] bool has(std::string_view name) const;
  /// Throws Error(kInput) where the tensor is missing or its shape is not `shape`.
  [[nodiscard]] const TensorView& tensor(std::string_view name, const std::vector<std::int64_t>& shape) const;
  [[nodiscard]] std::int64_t bytes() const;  ///< of all tensors

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace purekv
