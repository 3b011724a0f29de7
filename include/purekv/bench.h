#pragma once

#include <cstdint>
#include <string>

#include "purekv/engine.h"
#include "purekv/options.h"

namespace purekv {

enum class BenchKind { kAttention, kVision, kPrefill, kDecode };

/// Sizes of a random model (docs/interfaces.md). A named shape fills them.
struct BenchShape {
  std::string name = "custom";
  std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0;
  std::int64_t vocab = 151936;
};

struct BenchRequest {
  BenchKind kind = BenchKind::kPrefill;
  BenchShape shape;
  std::int64_t tokens = 0;  ///< prompt or context rows; 0: from frames
  std::int64_t frames = 0, tokens_per_frame = 0, prefix = 0, question = 0;
  std::int64_t batch = 1;
  WeightType weights = WeightType::kBf16;
  AskOptions ask;
  EngineOptions engine;  ///< device, compute, threads
  std::int64_t repeat = 3;
};

struct BenchResult {
  std::string what, shape;
  double median_ms = 0, min_ms = 0, max_ms = 0;
  double flops_useful = 0, bytes = 0, tflops = 0;
  double ceiling_gemm_tflops = 0, ceiling_copy_gbps = 0, percent_of_ceiling = 0;
  KvReport kv;
};

/// Named shapes of docs/interfaces.md; throws Error(kUsage) for another name.
BenchShape named_shape(const std::string& name);

/// Runs once to warm up and `repeat` times; throws Error(kResource) before work where the
/// computed memory is not there.
BenchResult run_bench(const BenchRequest& request, const Progress& progress = {});

}  // namespace purekv
