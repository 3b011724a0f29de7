#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>

#include "device/cuda/cuda_device.h"
#include "device/memory.h"
#include "kernels/mlp.h"
#include "kernels/random_bits.h"
#include "model/decode_session.h"
#include "model/decoder.h"
#include "model/vision_tower.h"
#include "model/weights.h"
#include "purekv/error.h"
#include "select/selector.h"
#include "sparse/plan.h"
#include "support/cuda.h"
#include "support/tables.h"

namespace purekv {
namespace {

using CudaModelTest = CudaTest;

TextConfig small_config() {
  TextConfig config;
  config.hidden = 256;
  config.layers = 3;
  config.ffn = 512;
  config.vocab = 1000;
  config.heads = {.heads = 8, .kv_heads = 2, .head_dim = 64};
  config.mrope_section = {8, 12, 12};
  config.tied = true;
  return config;
}

/// Random bf16 rows in the type of the context's residual stream, the same values on both backends.
Matrix random_hidden(const Context& context, std::int64_t rows, std::int64_t cols, float magnitude,
                     std::uint64_t seed) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(rows * cols));
  random_bits({}, {bits.data(), DType::kBF16, rows, cols, cols}, magnitude, seed);
  Matrix hidden(context, context.activation(), rows, cols);
  if (context.activation() == DType::kBF16)
    upload(context, hidden.view().data, bits.data(), 2 * rows * cols);
  else
    upload(context, hidden.view().data, widen(bits).data(), 4 * rows * cols);
  return hidden;
}

/// One prompt on one backend: the same random weights and rows everywhere, because random_bits is.
struct ModelRun {
  Context context;
  TextConfig config = small_config();
  LanguageWeights weights;
  Decoder decoder;
  FrameTable table;
  KvCache cache;
  float magnitude = 1;  ///< of the prompt's rows
  Matrix hidden;        ///< [rows, hidden] the residual stream after every layer but the last
  std::vector<float> logits;
  std::vector<std::vector<float>> scores;  ///< [layer][kv_heads, columns] what was ranked, where it was asked for

  ModelRun(const Context& c, FrameTable t)
      : context(c),
        weights(random_language(c, config, DType::kBF16)),
        decoder(context, config, weights),
        table(std::move(t)),
        cache(context, config.heads, config.layers) {}

  void prefill(const CompressionOptions& compression, Pattern pattern, std::int64_t chunk, std::uint64_t seed,
               bool keep_scores = false) {
    Positions positions;
    for (auto& axis : positions.axis) {
      axis.resize(static_cast<std::size_t>(table.rows));
      std::iota(axis.begin(), axis.end(), 0);
    }
    const RopeTable rope = make_rope_table(context, config, positions);
    const std::int32_t block_rows = plan_block_rows(context);
    const AttentionPlan dense = make_plan(table, {.block_rows = block_rows});
    const AttentionPlan sparse =
        make_plan(table, {.pattern = pattern, .local_window = 40, .atrous_rate = 3, .block_rows = block_rows});
    hidden = random_hidden(context, table.rows, config.hidden, magnitude, seed);
    ScoreSink sink;  // makes a GPU wait in every layer
    if (keep_scores)
      sink = [this](std::string_view name, std::int64_t, const float* data, std::int64_t kv_heads,
                    std::int64_t columns) {
        if (name == "score") scores.emplace_back(data, data + kv_heads * columns);
      };
    Selector selector(context, compression, table, sink);
    Prefill prefill(decoder, cache,
                    {.hidden = hidden.view(),
                     .rope = &rope,
                     .table = &table,
                     .dense = &dense,
                     .sparse = &sparse,
                     .sparse_from = 1,
                     .chunk = chunk});
    const LayerHook hook = [&](const Observation& seen) -> std::optional<CompactionPlan> {
      auto keep = selector.select(seen);
      if (!keep) return std::nullopt;
      return CompactionPlan{std::move(*keep)};
    };
    while (!prefill.done()) prefill.step(hook, selector.needs_lse());
    const Matrix out(context, DType::kF32, 1, config.vocab);
    prefill.last_logits(out.view());
    logits = to_host<float>(context, out.view().data, config.vocab);
  }

  [[nodiscard]] std::vector<float> hidden_rows() const {
    const std::int64_t count = table.rows * config.hidden;
    if (hidden.view().dtype == DType::kF32) return to_host<float>(context, hidden.view().data, count);
    return widen(to_host<std::uint16_t>(context, hidden.view().data, count));
  }

  /// Logits after each of some given tokens.
  std::vector<float> decode(std::span<const std::int32_t> ids) {
    std::vector<float> all;
    DecodeSession session(decoder, {&cache}, std::array{table.rows});
    std::int32_t token = table.rows;
    for (const std::int32_t id : ids) {
      upload(context, session.ids(), &id, sizeof id);
      session.step(std::array{token++});
      const auto row = to_host<float>(context, session.logits().data, config.vocab);
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  }
};

CompressionOptions keeps(Score score, double percent) {
  CompressionOptions options;
  options.score = score;
  options.budget.percent = percent;
  if (percent == 100) options.method = Method::kFull;
  return options;
}

/// How far from the cut, relative to it, rows may lie that only one backend keeps: what bf16 activations move scores
/// by.
constexpr float kCutTolerance = 0.01F;

/// Both backends keep the same rows but for near-ties: a row that only one keeps has a score next to the lowest that
/// the CPU kept. Returns the share of rows that lie so near.
double expect_same_rows(const ModelRun& gpu, const ModelRun& cpu, std::int64_t layer, std::int64_t head) {
  const std::vector<float>& all = cpu.scores[static_cast<std::size_t>(layer)];
  const auto columns = static_cast<std::ptrdiff_t>(all.size()) / cpu.config.heads.kv_heads;
  const std::vector<float> score(all.begin() + head * columns, all.begin() + (head + 1) * columns);
  const std::vector<std::int32_t> left = gpu.cache.tokens(layer, head);
  const std::vector<std::int32_t> right = cpu.cache.tokens(layer, head);
  float cut = std::numeric_limits<float>::infinity();
  for (const std::int32_t row : right)
    if (row < columns) cut = std::min(cut, score[static_cast<std::size_t>(row)]);
  const auto is_near = [cut](float x) { return std::abs(x - cut) <= kCutTolerance * cut; };
  std::vector<std::int32_t> different;
  std::set_symmetric_difference(left.begin(), left.end(), right.begin(), right.end(), std::back_inserter(different));
  EXPECT_EQ(left.size(), right.size());
  for (const std::int32_t row : different) {
    if (row >= columns) {
      ADD_FAILURE() << "row " << row << " of the window is not kept by both";
      continue;
    }
    const float x = score[static_cast<std::size_t>(row)];
    EXPECT_TRUE(is_near(x)) << "layer " << layer << " head " << head << " row " << row << ": " << x << ", cut at "
                            << cut;
  }
  return static_cast<double>(std::count_if(score.begin(), score.end(), is_near)) / static_cast<double>(columns);
}

/// bf16 activations through three random layers against float32 ones.
constexpr double kModelBound = 2e-3;

TEST_F(CudaModelTest, PrefillAndDecodeFollowTheCpu) {
  const std::vector<std::int32_t> ids = {5, 17, 999, 0, 31, 64};
  for (const Pattern pattern : {Pattern::kDense, Pattern::kSpatialTemporal, Pattern::kSpatial, Pattern::kTemporal,
                                Pattern::kLocal, Pattern::kAtrous})
    for (const double percent : {100.0, 20.0}) {
      ModelRun cpu(cpu_, make_table(7, {{6, 5, 5}, {3, 4, 3}}, 4, 21));
      ModelRun gpu(context_, make_table(7, {{6, 5, 5}, {3, 4, 3}}, 4, 21));
      cpu.prefill(keeps(Score::kOwnFrame, percent), pattern, 512, 3, percent < 100);
      gpu.prefill(keeps(Score::kOwnFrame, percent), pattern, 100, 3);
      SCOPED_TRACE(testing::Message() << "pattern " << static_cast<int>(pattern) << " at " << percent);
      EXPECT_LT(nmse(gpu.logits, cpu.logits), kModelBound);
      ASSERT_EQ(gpu.cache.bytes_used(), cpu.cache.bytes_used() / 2) << "bf16 rows against float32 ones";
      if (percent == 100.0) {
        EXPECT_LT(nmse(gpu.decode(ids), cpu.decode(ids)), kModelBound);
        continue;
      }
      for (std::int64_t layer = 0; layer < 3; ++layer)
        for (std::int64_t head = 0; head < 2; ++head)
          EXPECT_LT(expect_same_rows(gpu, cpu, layer, head), 0.05) << "too many near-ties for a test";
    }
}

/// Chunks whose MLP one kernel halves on a Hopper, all rows at once and before a shorter chunk that takes two products.
TEST_F(CudaModelTest, LargeChunksFollowTheCpu) {
  const bool hopper = context_.cuda->capability == 90;
  const TextConfig config = small_config();
  EXPECT_EQ(mlp_stores_up(context_, 604, config.hidden, config.ffn), !hopper);
  EXPECT_EQ(mlp_stores_up(context_, 256, config.hidden, config.ffn), !hopper);
  EXPECT_TRUE(mlp_stores_up(context_, 255, config.hidden, config.ffn));
  const std::array<FrameTable, 2> tables = {make_table(7, {{8, 9, 8}}, 0, 21), make_table(7, {{6, 8, 10}}, 0, 24)};
  ASSERT_EQ(tables[0].rows, 604);
  ASSERT_EQ(tables[1].rows, 256 + 255);  // a prefill takes even chunks
  for (const FrameTable& table : tables) {
    const std::int64_t chunk = table.rows == 604 ? 1024 : 256;
    SCOPED_TRACE(testing::Message() << table.rows << " rows by " << chunk);
    ModelRun cpu(cpu_, table);
    ModelRun gpu(context_, table);
    cpu.magnitude = gpu.magnitude = 0x1p-4F;  // what layers add is no small part of the sum
    cpu.prefill(keeps(Score::kOwnFrame, 100), Pattern::kDense, 512, 9);
    gpu.prefill(keeps(Score::kOwnFrame, 100), Pattern::kDense, chunk, 9);
    EXPECT_LT(nmse(gpu.hidden_rows(), cpu.hidden_rows()), kModelBound);
    EXPECT_LT(nmse(gpu.logits, cpu.logits), kModelBound);
    const std::vector<std::int32_t> ids = {5, 999, 31};
    EXPECT_LT(nmse(gpu.decode(ids), cpu.decode(ids)), kModelBound);
  }
}

TEST_F(CudaModelTest, EveryScoreSelectsAndRepeatsBitForBit) {
  for (const Score score : {Score::kOwn, Score::kClie, Score::kFrame, Score::kOwnFrame, Score::kClieFrame}) {
    CompressionOptions options = keeps(score, 10);
    options.clie_layer = 1;
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<std::int32_t>> kept;
    for (int i = 0; i < 2; ++i) {
      ModelRun gpu(context_, make_table(3, {{5, 6, 7}}, 0, 40));
      gpu.prefill(options, Pattern::kSpatialTemporal, 64, 8);
      kept.push_back(gpu.cache.tokens(2, 1));
      logits.push_back(gpu.decode(std::vector<std::int32_t>{1, 2, 3}));
    }
    EXPECT_EQ(logits[0], logits[1]);
    EXPECT_EQ(kept[0], kept[1]);
    for (const float x : logits[0]) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST_F(CudaModelTest, ABatchDecodesAsItsSequencesAlone) {
  std::vector<std::unique_ptr<ModelRun>> runs;
  std::vector<std::vector<float>> alone;
  for (const std::int32_t rows : {9, 300, 61, 1}) {
    const CompressionOptions options = keeps(Score::kOwn, rows > 100 ? 20 : 100);
    ModelRun single(context_, make_frame_table(rows, {}));
    single.prefill(options, Pattern::kDense, 512, 5);
    alone.push_back(single.decode(std::vector<std::int32_t>{4, 4, 4}));
    runs.push_back(std::make_unique<ModelRun>(context_, make_frame_table(rows, {})));
    runs.back()->prefill(options, Pattern::kDense, 512, 5);
  }
  std::vector<KvCache*> caches;
  std::vector<std::int32_t> positions;
  for (const auto& run : runs) {
    caches.push_back(&run->cache);
    positions.push_back(run->table.rows);
  }
  DecodeSession session(runs.front()->decoder, caches, positions);
  const std::vector<std::int32_t> ids(runs.size(), 4);
  for (std::int64_t step = 0; step < 3; ++step) {
    upload(context_, session.ids(), ids.data(), static_cast<std::int64_t>(ids.size() * sizeof(std::int32_t)));
    session.step(positions);
    for (std::int32_t& position : positions) ++position;
    const auto logits = to_host<float>(context_, session.logits().data, 4 * 1000);
    for (std::size_t s = 0; s < runs.size(); ++s) {
      const std::vector<float> got(logits.begin() + static_cast<std::ptrdiff_t>(s * 1000),
                                   logits.begin() + static_cast<std::ptrdiff_t>(s * 1000 + 1000));
      const std::vector<float> want(alone[s].begin() + step * 1000, alone[s].begin() + step * 1000 + 1000);
      EXPECT_LT(nmse(got, want), 1e-4) << "sequence " << s << " step " << step;
    }
  }
}

TEST_F(CudaModelTest, VisionTowerFollowsTheCpu) {
  VisionConfig config;
  config.depth = 3;
  config.hidden = 320;
  config.heads = 4;
  config.ffn = 448;
  config.out_hidden = 256;
  config.full_layers = {1};
  const VisionWeights left = random_vision(cpu_, config, DType::kBF16);
  const VisionWeights right = random_vision(context_, config, DType::kBF16);
  VisionTower cpu(cpu_, config, left);
  VisionTower gpu(context_, config, right);
  for (const auto& [h, w, slices] : {std::array<std::int64_t, 3>{12, 20, 3}, {2, 2, 1}, {10, 6, 2}}) {
    const std::int64_t rows = h * w * slices;
    const Matrix a(cpu_, DType::kF32, rows, config.patch_values());
    const Matrix b(context_, DType::kF32, rows, config.patch_values());
    random_bits(cpu_, a.view(), 1.0F, 7);
    random_bits(context_, b.view(), 1.0F, 7);
    const Matrix reference(cpu_, DType::kF32, rows / 4, config.out_hidden);
    const Matrix out(context_, DType::kF32, rows / 4, config.out_hidden);
    const Matrix narrow(context_, context_.activation(), rows / 4, config.out_hidden);  // the engine's hidden rows
    cpu.encode(h, w, slices, a.view(), reference.view());
    gpu.encode(h, w, slices, b.view(), out.view());
    gpu.encode(h, w, slices, b.view(), narrow.view());
    SCOPED_TRACE(testing::Message() << h << "x" << w);
    const std::int64_t size = rows / 4 * config.out_hidden;
    const std::vector<float> want = to_host<float>(cpu_, reference.view().data, size);
    EXPECT_LT(nmse(to_host<float>(context_, out.view().data, size), want), kModelBound);
    EXPECT_LT(nmse(widen(to_host<std::uint16_t>(context_, narrow.view().data, size)), want), kModelBound);
  }
}

TEST_F(CudaModelTest, OutOfMemoryIsAnErrorAndTheDeviceStaysUsable) {
  const std::int64_t before = available_bytes(context_);
  try {
    const Buffer huge(context_, std::int64_t{1} << 45);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_NE(std::string(error.what()).find(std::to_string(std::int64_t{1} << 45)), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--budget"), std::string::npos);
  }
  ModelRun gpu(context_, make_frame_table(20, {}));
  gpu.prefill(keeps(Score::kOwn, 100), Pattern::kDense, 512, 5);
  for (const float x : gpu.logits) ASSERT_TRUE(std::isfinite(x));
  EXPECT_NEAR(static_cast<double>(available_bytes(context_)), static_cast<double>(before), 1e9);
}

}  // namespace
}  // namespace purekv
