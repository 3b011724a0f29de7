#include "purekv/bench.h"

#include <array>
#include <limits>

#include "choices.h"
#include "command.h"
#include "errors.h"
#include "flag_binding.h"
#include "flags.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"
#include "settings_json.h"

namespace purekv::app {
namespace {

/// The model's sizes as given; the rest comes from the named shape.
struct ShapeFlags {
  std::optional<BenchShape> named;
  std::optional<std::int64_t> layers, hidden, heads, kv_heads, head_dim, ffn;
};

BenchShape resolve_shape(const ShapeFlags& flags) {
  BenchShape shape = flags.named.value_or(BenchShape{});
  const std::array<std::pair<const std::optional<std::int64_t>*, std::int64_t*>, 6> sizes = {
      {{&flags.layers, &shape.layers},
       {&flags.hidden, &shape.hidden},
       {&flags.heads, &shape.heads},
       {&flags.kv_heads, &shape.kv_heads},
       {&flags.head_dim, &shape.head_dim},
       {&flags.ffn, &shape.ffn}}};
  for (const auto& [given, size] : sizes) {
    if (*given)
      shape.name = "custom";
    else if (!flags.named)
      fail(ErrorKind::kUsage, "give --shape NAME, or all of --layers --hidden --heads --kv-heads --head-dim --ffn");
    *size = given->value_or(*size);
  }
  return shape;
}

Json bench_json(const BenchResult& result) {
  return {{"what", result.what},
          {"shape", result.shape},
          {"median_ms", result.median_ms},
          {"min_ms", result.min_ms},
          {"max_ms", result.max_ms},
          {"flops_useful", result.flops_useful},
          {"bytes", result.bytes},
          {"tflops", result.tflops},
          {"ceiling", {{"gemm_tflops", result.ceiling_gemm_tflops}, {"copy_gbps", result.ceiling_copy_gbps}}},
          {"percent_of_ceiling", result.percent_of_ceiling},
          {"kv", kv_json(result.kv)}};
}

std::string bench_text(const BenchResult& result) {
  return fmt::format(
      "{} of {}\n  median   {:.3f} ms ({:.3f} to {:.3f})\n  useful   {:.4g} FLOP, {:.4f} TFLOP/s\n"
      "  ceiling  {:.4f} TFLOP/s in a matrix product, {:.2f} GB/s from memory; {:.1f} % of it reached\n"
      "  KV       {} full, {} kept, {} peak\n",
      result.what, result.shape, result.median_ms, result.min_ms, result.max_ms, result.flops_useful, result.tflops,
      result.ceiling_gemm_tflops, result.ceiling_copy_gbps, result.percent_of_ceiling, bytes_text(result.kv.bytes_full),
      bytes_text(result.kv.bytes_kept), bytes_text(result.kv.bytes_peak));
}

class BenchCommand : public Command {
 public:
  BenchCommand()
      : Command("bench", "attention|vision|prefill|decode [FLAGS]",
                "time a part of the work on random weights, no model files\n\n"
                "attention is one layer without projections, vision the tower, prefill a prompt up to its first\n"
                "logits, decode one step at a context of --tokens. The machine's ceilings are measured in turns.") {
    add_shape_flags();
    add_length_flags();
    add_compression_flags(app_, flags_.compression);
    add_attention_flags(app_, flags_.attention);
    add_run_flags(app_, flags_.prefill_chunk);
    const FlagGroup group{app_, "Machine and output"};
    bind_choice(group, "--device", "where to compute (default auto)", flags_.engine.device, kDevices);
    bind_choice(group, "--dtype", "type of activations and cache (default f32 on the CPU)", flags_.engine.compute,
                kComputeTypes);
    constexpr std::int64_t kMostThreads = 1024;
    bind_integer(group, {"--threads", "N", "CPU threads (default: every core)"}, flags_.engine.threads, 1,
                 kMostThreads);
    bind(group, {"--seed", "N", "seed of --method random (default 0)"}, flags_.prompt.generation.seed, parse_seed);
    constexpr std::int64_t kMostRepeats = 100000;
    bind_integer(group, {"--repeat", "N", "timed runs after one to warm up (default 3)"}, request_.repeat, 1,
                 kMostRepeats);
    bind_switch(group, "--json", "print one JSON object", json_);
    bind_switch(group, "--quiet", "no progress on standard error", quiet_);
  }

  [[nodiscard]] std::vector<std::string> first_words() const override {
    std::vector<std::string> kinds;
    for (const auto& [word, kind] : kBenchKinds) kinds.emplace_back(word);
    return kinds;
  }

 private:
  void add_shape_flags() {
    const FlagGroup group{app_, "Model"};
    bind(group, {"--shape", "NAME", "qwen2.5-vl-7b, qwen2.5-vl-3b, qwen2.5-vl-72b, qwen2.5-0.5b or videollama2.1-7b"},
         shape_.named, [](const std::string&, const std::string& value) { return named_shape(value); });
    constexpr std::int64_t kMostSize = 1 << 20;
    bind_integer(group, {"--layers", "N", "instead of the shape's: decoder layers, or blocks of the tower"},
                 shape_.layers, 1, kMostSize);
    bind_integer(group, {"--hidden", "N", "width of the residual stream"}, shape_.hidden, 1, kMostSize);
    bind_integer(group, {"--heads", "N", "query heads"}, shape_.heads, 1, kMostSize);
    bind_integer(group, {"--kv-heads", "N", "KV heads"}, shape_.kv_heads, 1, kMostSize);
    bind_integer(group, {"--head-dim", "N", "values a head, even"}, shape_.head_dim, 2, kMostSize);
    bind_integer(group, {"--ffn", "N", "width of the feed-forward layer"}, shape_.ffn, 1, kMostSize);
    bind_choice(group, "--weights", "type of the weights (default bf16; fp8 needs CUDA)", request_.weights,
                kWeightTypes);
  }

  void add_length_flags() {
    const FlagGroup group{app_, "Prompt"};
    constexpr std::int64_t kMostRows = std::numeric_limits<std::int32_t>::max();
    constexpr std::int64_t kMostBatch = 1 << 16;
    bind_integer(group, {"--tokens", "L", "rows of text; or give the four below"}, tokens_, 1, kMostRows);
    bind_integer(group, {"--frames", "F", "token-frames of a video"}, frames_, 1, kMostRows);
    bind_integer(group, {"--tokens-per-frame", "N", "merged cells a frame"}, tokens_per_frame_, 1, kMostRows);
    bind_integer(group, {"--prefix", "P", "text rows before the video (default 0)"}, prefix_, 0, kMostRows);
    bind_integer(group, {"--question", "T", "text rows after the video (default 0)"}, question_, 0, kMostRows);
    bind_integer(group, {"--batch", "N", "sequences at once (default 1)"}, request_.batch, 1, kMostBatch);
  }

  void resolve_lengths() {
    const bool video = frames_ || tokens_per_frame_ || prefix_ || question_;
    if (tokens_ && video)
      fail(ErrorKind::kUsage,
           "--tokens contradicts --frames, --tokens-per-frame, --prefix and --question; give one kind");
    if (!tokens_ && !(frames_ && tokens_per_frame_))
      fail(ErrorKind::kUsage, "give --tokens L, or --frames F and --tokens-per-frame N");
    if (request_.kind == BenchKind::kVision && tokens_)
      fail(ErrorKind::kUsage, "the tower sees frames; give --frames F and --tokens-per-frame N");
    request_.tokens = tokens_.value_or(0);
    request_.frames = frames_.value_or(0);
    request_.tokens_per_frame = tokens_per_frame_.value_or(0);
    request_.prefix = prefix_.value_or(0);
    request_.question = question_.value_or(0);
  }

  void run(const std::vector<std::string>& positionals) override {
    if (positionals.size() != 1)
      fail(ErrorKind::kUsage, "{} benchmarks named; name one of {}", positionals.size(), words(kBenchKinds));
    request_.kind = parse_choice("the benchmark", positionals.front(), kBenchKinds);
    request_.shape = resolve_shape(shape_);
    resolve_lengths();
    request_.ask = resolve(flags_);
    request_.engine = engine_options(flags_.engine, "");
    ProgressPrinter printer(quiet_);
    const BenchResult result = run_bench(request_, engine_progress(printer));
    check_interrupt();
    printer.clear();
    write_out(json_ ? dump(bench_json(result)) + "\n" : bench_text(result));
  }

  AskFlags flags_;
  ShapeFlags shape_;
  BenchRequest request_;
  std::optional<std::int64_t> tokens_, frames_, tokens_per_frame_, prefix_, question_;
  bool json_ = false, quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace purekv::app
