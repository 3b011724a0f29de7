#pragma once

#include <vector>

#include "device/buffer.h"
#include "device/context.h"

namespace purekv {

/// What this machine can do at most, measured in turns with the thing that is judged by it: one
/// large matrix product in the types of the run, and one pass that reads memory past the caches.
class Ceiling {
 public:
  Ceiling(const Context& context, DType weights);
  /// One measurement of both; call it between the runs.
  void measure();
  [[nodiscard]] double gemm_tflops() const;  ///< median
  [[nodiscard]] double copy_gbps() const;    ///< median, bytes read

 private:
  Context context_;
  Matrix x_, weight_, out_;
  Buffer stream_;
  std::vector<double> gemm_, read_;
};

double median(std::vector<double> values);

}  // namespace purekv
