#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/stopwatch.h"
#include "cache/kv_cache.h"
#include "device/buffer.h"
#include "engine/media_encoder.h"
#include "engine/prompt.h"
#include "engine/state.h"
#include "engine/trace.h"
#include "flow/attention_plan.h"
#include "purekv/engine.h"
#include "select/selector.h"

namespace purekv {

/// Plans of a question's media, encoded or not. Throws Error(kUsage) where both are given.
std::vector<ClipInfo> media_of(const Question& question);

/// One question from its media to its answer: the stages of the flow in order.
class Generation {
 public:
  Generation(LoadedModel& model, Question question, const AskOptions& options, const Progress& progress);
  Answer run();

 private:
  void plan();
  void encode_media();
  void copy_encoded(const EncodedMedia& encoded);
  void encode_sources();
  void prefill();
  void decode();
  void trace_rows(std::string_view name, std::int64_t layer) const;
  void keep_logits(const ConstMatrixView& logits);
  bool emit(std::int32_t id, Utf8Stream& stream);
  void report_cache();
  void report_answer();

  [[nodiscard]] std::optional<CompactionPlan> choose(const Observation& observation);
  [[nodiscard]] ScoreSink score_sink() const;
  void step(std::string_view stage, std::int64_t done, std::int64_t total) const;
  void check_stop(std::string_view stage) const;

  LoadedModel& model_;
  Question question_;
  const AskOptions& options_;
  const Progress& progress_;
  Trace trace_;
  Answer answer_;
  Prompt prompt_;
  std::unique_ptr<Selector> selector_;
  KvCache cache_;
  Matrix hidden_;                  ///< [l, hidden] context.activation()
  Matrix logits_;                  ///< [1, vocab] after the prompt
  std::vector<float> logit_rows_;  ///< [g, vocab] for the trace
  Clock::time_point begin_;
};

}  // namespace purekv
