#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "purekv/engine.h"
#include "support/cuda.h"

namespace purekv {
namespace {

/// Prompts as ids and frames (training/record_prompts.py), asked of both backends.
class CudaDemoTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    const char* folder = std::getenv("PUREKV_PROMPTS");
    folder_ = folder != nullptr ? folder : std::string(PUREKV_SOURCE_DIR) + "/build/prompts";
    std::ifstream file(folder_ + "/prompts.json");
    if (!file) GTEST_SKIP() << "no " << folder_ << "/prompts.json: python training/record_prompts.py --out " << folder_;
    items_ = nlohmann::json::parse(file).at("items");
  }

  [[nodiscard]] Answer ask(Engine& engine, const nlohmann::json& item, const AskOptions& options) const {
    Question question;
    question.media.push_back(open_media(folder_ + "/" + item.at("clip").get<std::string>(), {}, engine.preprocess()));
    question.ids = item.at("ids").get<std::vector<std::int32_t>>();
    return engine.ask(std::move(question), options);
  }

  /// What greedy answers of two engines have in common. Rows of logits are compared as long as the ids before them are
  /// the same.
  struct Comparison {
    double mean_kl = 0;
    std::int64_t rows = 0, top_equal = 0, answers_equal = 0, answers = 0;
    std::int64_t examples_equal = 0;  ///< of the first eight
    [[nodiscard]] std::string text() const {
      return "mean KL " + std::to_string(mean_kl * 1e6) + "e-6, top token equal in " + std::to_string(top_equal) +
             " of " + std::to_string(rows) + " rows, " + std::to_string(answers_equal) + " of " +
             std::to_string(answers) + " answers equal";
    }
  };
  Comparison compare(Engine& reference, Engine& other);

  [[nodiscard]] static EngineOptions engine_options(DeviceKind device) {
    return {.model_dir = std::string(PUREKV_SOURCE_DIR) + "/models/demo", .device = device};
  }

  std::string folder_;
  nlohmann::json items_;
};

/// logits.npy of a trace, [rows][vocab].
std::vector<std::vector<float>> read_logits(const std::string& trace, std::size_t rows) {
  std::ifstream file(trace + "/logits.npy", std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  constexpr std::size_t kPrefix = 10;  // magic, version and the header's length
  const std::size_t header =
      kPrefix + static_cast<std::uint8_t>(bytes.at(8)) + 256U * static_cast<std::uint8_t>(bytes.at(9));
  const std::size_t vocab = (bytes.size() - header) / sizeof(float) / rows;
  std::vector<std::vector<float>> out(rows, std::vector<float>(vocab));
  for (std::size_t r = 0; r < rows; ++r)
    std::memcpy(out[r].data(), bytes.data() + header + r * vocab * sizeof(float), vocab * sizeof(float));
  return out;
}

double kl(const std::vector<float>& reference, const std::vector<float>& other) {
  const auto log_sum = [](const std::vector<float>& x) {
    double most = -1e300;
    for (const float v : x) most = std::max(most, static_cast<double>(v));
    double sum = 0;
    for (const float v : x) sum += std::exp(v - most);
    return most + std::log(sum);
  };
  const double a = log_sum(reference);
  const double b = log_sum(other);
  double sum = 0;
  for (std::size_t i = 0; i < reference.size(); ++i)
    sum += std::exp(reference[i] - a) * ((reference[i] - a) - (other[i] - b));
  return sum;
}

AskOptions full_cache() {
  AskOptions options = preset_options("purekv");
  options.compression.method = Method::kFull;
  options.generation.temperature = 0.0;
  return options;
}

CudaDemoTest::Comparison CudaDemoTest::compare(Engine& reference, Engine& other) {
  const std::filesystem::path scratch = std::filesystem::temp_directory_path() / "purekv-demo-test";
  constexpr std::int64_t kExamples = 8;
  Comparison result;
  double sum = 0;
  for (const auto& item : items_) {
    AskOptions options = full_cache();
    options.trace_dir = (scratch / "reference").string();
    const Answer left = ask(reference, item, options);
    const auto left_logits = read_logits(options.trace_dir, left.output_ids.size());
    options.trace_dir = (scratch / "other").string();
    const Answer right = ask(other, item, options);
    const auto right_logits = read_logits(options.trace_dir, right.output_ids.size());
    const bool same = left.output_ids == right.output_ids;
    result.examples_equal += same && result.answers < kExamples ? 1 : 0;
    result.answers_equal += same ? 1 : 0;
    ++result.answers;
    for (std::size_t r = 0; r < std::min(left_logits.size(), right_logits.size()); ++r) {
      sum += kl(left_logits[r], right_logits[r]);
      ++result.rows;
      if (left.output_ids[r] != right.output_ids[r]) break;
      ++result.top_equal;
    }
  }
  std::filesystem::remove_all(scratch);
  result.mean_kl = sum / static_cast<double>(result.rows);
  return result;
}

TEST_F(CudaDemoTest, AnswersEqualTheCpusAndLogitsAreNear) {
  Engine cpu(engine_options(DeviceKind::kCpu));
  Engine gpu(engine_options(DeviceKind::kCuda));
  const Comparison result = compare(cpu, gpu);
  std::cout << "GPU bf16 against CPU float32: " << result.text() << "\n";
  EXPECT_EQ(result.examples_equal, 8);
  EXPECT_LE(result.mean_kl, 1e-3);
}

TEST_F(CudaDemoTest, Fp8WeightsStayNear) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  EngineOptions options = engine_options(DeviceKind::kCuda);
  Engine bf16(options);
  options.weights = WeightType::kFp8;
  Engine fp8(options);
  const Comparison result = compare(bf16, fp8);
  std::cout << "fp8 against bf16: " << result.text() << "\n";
  EXPECT_LE(result.mean_kl, 0.05);
}

TEST_F(CudaDemoTest, CompressedAnswersRepeatBitForBit) {
  Engine gpu(engine_options(DeviceKind::kCuda));
  AskOptions options = preset_options("purekv");
  const std::filesystem::path scratch = std::filesystem::temp_directory_path() / "purekv-repeat-test";
  std::vector<std::vector<std::vector<float>>> logits;
  for (const char* name : {"a", "b"}) {
    options.trace_dir = (scratch / name).string();
    const Answer answer = ask(gpu, items_.at(0), options);
    logits.push_back(read_logits(options.trace_dir, answer.output_ids.size()));
    EXPECT_LE(answer.kv.bytes_kept, answer.kv.bytes_full / 5);
  }
  EXPECT_EQ(logits[0], logits[1]);
  std::filesystem::remove_all(scratch);
}

}  // namespace
}  // namespace purekv
