#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "errors.h"
#include "purekv/bench.h"
#include "purekv/options.h"

namespace purekv::app {

/// The words a flag takes and what they stand for. One table serves parsing, help and JSON.
template <class E, std::size_t N>
using Choices = std::array<std::pair<std::string_view, E>, N>;

inline constexpr Choices<DeviceKind, 3> kDevices = {
    {{"auto", DeviceKind::kAuto}, {"cpu", DeviceKind::kCpu}, {"cuda", DeviceKind::kCuda}}};
inline constexpr Choices<ComputeType, 2> kComputeTypes = {{{"f32", ComputeType::kF32}, {"bf16", ComputeType::kBf16}}};
inline constexpr Choices<Method, 3> kMethods = {
    {{"full", Method::kFull}, {"purekv", Method::kPureKv}, {"random", Method::kRandom}}};
inline constexpr Choices<BudgetBase, 2> kBudgetBases = {
    {{"prompt", BudgetBase::kPrompt}, {"video", BudgetBase::kVideo}}};
inline constexpr Choices<Score, 5> kScores = {{{"own", Score::kOwn},
                                               {"clie", Score::kClie},
                                               {"frame", Score::kFrame},
                                               {"own+frame", Score::kOwnFrame},
                                               {"clie+frame", Score::kClieFrame}}};
inline constexpr Choices<RowReduce, 2> kRowReduces = {{{"sum", RowReduce::kSum}, {"max", RowReduce::kMax}}};
inline constexpr Choices<GqaReduce, 2> kGqaReduces = {{{"mean", GqaReduce::kMean}, {"max", GqaReduce::kMax}}};
inline constexpr Choices<ValueNorm, 3> kValueNorms = {
    {{"l2", ValueNorm::kL2}, {"out", ValueNorm::kOut}, {"off", ValueNorm::kOff}}};
inline constexpr Choices<Pattern, 6> kPatterns = {{{"dense", Pattern::kDense},
                                                   {"spatial-temporal", Pattern::kSpatialTemporal},
                                                   {"spatial", Pattern::kSpatial},
                                                   {"temporal", Pattern::kTemporal},
                                                   {"local", Pattern::kLocal},
                                                   {"atrous", Pattern::kAtrous}}};
inline constexpr Choices<std::string_view, 2> kPresets = {{{"purekv", "purekv"}, {"purekv-paper", "purekv-paper"}}};
inline constexpr Choices<WeightType, 2> kAskWeightTypes = {{{"bf16", WeightType::kBf16}, {"fp8", WeightType::kFp8}}};
inline constexpr Choices<WeightType, 3> kWeightTypes = {
    {{"f32", WeightType::kF32}, {"bf16", WeightType::kBf16}, {"fp8", WeightType::kFp8}}};
inline constexpr Choices<BenchKind, 4> kBenchKinds = {{{"attention", BenchKind::kAttention},
                                                       {"vision", BenchKind::kVision},
                                                       {"prefill", BenchKind::kPrefill},
                                                       {"decode", BenchKind::kDecode}}};

/// "a|b|c", as help and error lines show it.
template <class E, std::size_t N>
std::string words(const Choices<E, N>& choices) {
  std::string text;
  for (const auto& [word, value] : choices) text += (text.empty() ? "" : "|") + std::string(word);
  return text;
}

/// Throws Error(kUsage) naming the flag and the known words.
template <class E, std::size_t N>
E parse_choice(std::string_view flag, std::string_view text, const Choices<E, N>& choices) {
  for (const auto& [word, value] : choices)
    if (word == text) return value;
  fail(ErrorKind::kUsage, "{} is \"{}\"; give one of {}", flag, text, words(choices));
}

template <class E, std::size_t N>
std::string_view word_of(E value, const Choices<E, N>& choices) {
  for (const auto& [word, known] : choices)
    if (known == value) return word;
  return "";
}

}  // namespace purekv::app
