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

TEST_F(CudaDemoTest, AnswersEqualTheCpusAndLogitsAreNear) {
  Engine cpu(engine_options(DeviceKind::kCpu));
  Engine gpu(engine_options(DeviceKind::kCuda));
  const std::filesystem::path scratch = std::filesystem::temp_directory_path() / "purekv-demo-test";
  double sum = 0;
  std::int64_t rows = 0;
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    AskOptions options = full_cache();
    options.trace_dir = (scratch / "cpu").string();
    const Answer left = ask(cpu, items_[i], options);
    const auto reference = read_logits(options.trace_dir, left.output_ids.size());
    options.trace_dir = (scratch / "gpu").string();
    const Answer right = ask(gpu, items_[i], options);
    const auto other = read_logits(options.trace_dir, right.output_ids.size());
    const bool same = left.output_ids == right.output_ids;
    equal += same ? 1 : 0;
    constexpr std::size_t kExamples = 8;
    if (i < kExamples) {
      EXPECT_EQ(left.output_ids, right.output_ids) << items_[i].at("id");
    }
    // Rows are comparable as long as the ids before them are the same.
    for (std::size_t r = 0; r < std::min(reference.size(), other.size()); ++r) {
      sum += kl(reference[r], other[r]);
      ++rows;
      if (left.output_ids[r] != right.output_ids[r]) break;
    }
  }
  std::filesystem::remove_all(scratch);
  const double mean = sum / static_cast<double>(rows);
  RecordProperty("mean_kl", std::to_string(mean));
  std::cout << "mean KL " << mean << " over " << rows << " rows, " << equal << " of " << items_.size()
            << " answers equal\n";
  EXPECT_LE(mean, 1e-3);
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
