#include "base/fail.h"
#include "purekv/options.h"

namespace purekv {

AskOptions preset_options(const std::string& name) {
  AskOptions options;  // the members' own values are preset `purekv`
  options.preset = name;
  if (name == "purekv") return options;
  if (name != "purekv-paper") fail(ErrorKind::kUsage, "unknown preset {}; known are purekv and purekv-paper", name);
  constexpr std::int64_t kPaperWindow = 32;
  CompressionOptions& compression = options.compression;
  compression.score = Score::kClie;
  compression.row_reduce = RowReduce::kSum;
  compression.gqa_reduce = GqaReduce::kMean;
  compression.vnorm = ValueNorm::kL2;
  compression.window = kPaperWindow;
  compression.window_is_question = false;
  options.attention.pattern = Pattern::kSpatialTemporal;
  return options;
}

}  // namespace purekv
