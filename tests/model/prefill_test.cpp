#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "device/transfer.h"
#include "model/decode_session.h"
#include "model/decoder.h"
#include "model/weights.h"
#include "purekv/error.h"
#include "sparse/plan.h"
#include "support/random.h"
#include "support/tables.h"

namespace purekv {
namespace {

ModelConfig tiny_config() {
  ModelConfig config;
  config.has_vision = false;
  config.text.hidden = 48;
  config.text.layers = 3;
  config.text.ffn = 80;
  config.text.vocab = 100;
  config.text.heads = {.heads = 6, .kv_heads = 2, .head_dim = 8};
  config.text.mrope_section = {1, 1, 2};
  return config;
}

/// A random decoder over a prompt with a clip.
struct Fixture {
  ModelConfig config = tiny_config();
  Context context;
  LanguageWeights weights = random_language(context, config.text, DType::kF32);
  Decoder decoder{context, config.text, weights};
  FrameTable table = make_table(4, {{5, 3, 3}}, 0, 6);
  AttentionPlan dense = make_plan(table, {});
  AttentionPlan sparse = make_plan(table, {.pattern = Pattern::kSpatialTemporal});
  RopeTable rope;

  Fixture() {
    Positions positions;
    for (auto& axis : positions.axis) {
      axis.resize(static_cast<std::size_t>(table.rows));
      std::iota(axis.begin(), axis.end(), 0);
    }
    rope = make_rope_table(context, config.text, positions);
  }
};

struct Outcome {
  std::vector<float> logits, next_logits;
  std::vector<std::vector<float>> hidden;  ///< after each layer
  std::int64_t peak = 0, kept = 0;
};

struct Setting {
  std::int64_t chunk = 512;
  std::int64_t sparse_from = 99;
  bool all_rows = true;
  LayerHook hook = {};
  bool lse = false;
};

/// Logits after one more token.
std::vector<float> decode(const Fixture& f, KvCache& cache, std::int32_t id, std::int32_t position) {
  DecodeSession session(f.decoder, {&cache}, std::array{position});
  upload(f.context, session.ids(), &id, sizeof id);
  session.step(std::array{position});
  return to_host<float>(f.context, session.logits().data, f.config.text.vocab);
}

Outcome run(const Fixture& f, const Setting& setting) {
  const TextConfig& text = f.config.text;
  std::vector<float> rows = random_floats(f.table.rows * text.hidden, 11);
  KvCache cache(f.context, text.heads, text.layers);
  Prefill prefill(f.decoder, cache,
                  {.hidden = {rows.data(), DType::kF32, f.table.rows, text.hidden, text.hidden},
                   .rope = &f.rope,
                   .table = &f.table,
                   .dense = &f.dense,
                   .sparse = &f.sparse,
                   .sparse_from = setting.sparse_from,
                   .chunk = setting.chunk,
                   .all_rows = setting.all_rows});
  Outcome outcome;
  while (!prefill.done()) {
    prefill.step(setting.hook, setting.lse);
    outcome.hidden.push_back(rows);
  }
  outcome.logits.assign(static_cast<std::size_t>(text.vocab), std::nanf(""));
  prefill.last_logits({outcome.logits.data(), DType::kF32, 1, text.vocab, text.vocab});
  outcome.kept = cache.bytes_used();
  outcome.peak = cache.counter()->peak();
  outcome.next_logits = decode(f, cache, 5, f.table.rows);
  return outcome;
}

/// A hook's own memory of slots, [2 heads][stride].
CompactionPlan plan_of(std::vector<std::int32_t>& memory, const std::array<std::vector<std::int32_t>, 2>& slots) {
  CompactionPlan plan;
  const std::size_t stride = std::max(slots[0].size(), slots[1].size());
  memory.assign(2 * stride, 0);
  for (std::size_t head = 0; head < 2; ++head) {
    std::copy(slots[head].begin(), slots[head].end(), memory.begin() + static_cast<std::ptrdiff_t>(head * stride));
    plan.keep.counts.push_back(static_cast<std::int64_t>(slots[head].size()));
  }
  plan.keep.slots = memory.data();
  plan.keep.slot_stride = static_cast<std::int64_t>(stride);
  return plan;
}

/// Keeps every third row of head 0 and every fourth of head 1, and the last.
std::optional<CompactionPlan> keep_few(const Observation& seen) {
  static std::vector<std::int32_t> memory;
  std::array<std::vector<std::int32_t>, 2> slots;
  for (std::int32_t head = 0; head < 2; ++head)
    for (std::int32_t row = 0; row < seen.table->rows; ++row)
      if (row % (3 + head) == 0 || row + 1 == seen.table->rows) slots[static_cast<std::size_t>(head)].push_back(row);
  return plan_of(memory, slots);
}

std::optional<CompactionPlan> keep_all(const Observation& seen) {
  static std::vector<std::int32_t> memory;
  std::array<std::vector<std::int32_t>, 2> slots;
  for (auto& one : slots) {
    one.resize(static_cast<std::size_t>(seen.table->rows));
    std::iota(one.begin(), one.end(), 0);
  }
  return plan_of(memory, slots);
}

TEST(Prefill, FirstTokenIsTheSameBitsWhateverIsKeptOrSeen) {
  const Fixture f;
  const Outcome full = run(f, {});
  EXPECT_EQ(full.logits, run(f, {.hook = keep_few}).logits);
  EXPECT_EQ(full.logits, run(f, {.all_rows = false, .hook = keep_few}).logits);
  EXPECT_EQ(full.logits, run(f, {.all_rows = false, .hook = keep_few, .lse = true}).logits);
}

TEST(Prefill, KeepingEveryRowIsTheFullCacheBitForBit) {
  const Fixture f;
  const Outcome full = run(f, {});
  const Outcome all = run(f, {.hook = keep_all});
  EXPECT_EQ(full.hidden, all.hidden);
  EXPECT_EQ(full.next_logits, all.next_logits);
  EXPECT_EQ(full.kept, all.kept);
  EXPECT_NE(full.next_logits, run(f, {.hook = keep_few}).next_logits);
}

TEST(Prefill, ChunksOfRowsChangeRoundingOnly) {
  const Fixture f;
  for (const std::int64_t sparse_from : {0, 1, 99}) {
    const Outcome whole = run(f, {.chunk = 1000, .sparse_from = sparse_from});
    for (const std::int64_t chunk : {1, 7, 16, 54, 55}) {
      const Outcome parts = run(f, {.chunk = chunk, .sparse_from = sparse_from});
      for (std::size_t layer = 0; layer < whole.hidden.size(); ++layer)
        for (std::size_t i = 0; i < whole.hidden[layer].size(); ++i)
          ASSERT_NEAR(whole.hidden[layer][i], parts.hidden[layer][i], 1e-4) << "chunk " << chunk;
    }
  }
}

TEST(Prefill, SparseLayersDifferFromTheirFirstOn) {
  const Fixture f;
  const Outcome dense = run(f, {});
  const Outcome sparse = run(f, {.sparse_from = 1});
  EXPECT_EQ(dense.hidden[0], sparse.hidden[0]);
  EXPECT_NE(dense.hidden[1], sparse.hidden[1]);
}

TEST(Prefill, PeakIsWhatIsKeptAndOneLayersScratch) {
  const Fixture f;
  const Outcome few = run(f, {.hook = keep_few});
  const std::int64_t scratch = f.table.rows * 2 * 2 * 8 * 4;
  EXPECT_LE(few.peak, few.kept + scratch);
  EXPECT_GT(few.peak, scratch);
}

TEST(Prefill, LeavesBetweenLayersWhenAskedToStop) {
  const Fixture f;
  const TextConfig& text = f.config.text;
  std::vector<float> rows = random_floats(f.table.rows * text.hidden, 11);
  KvCache cache(f.context, text.heads, text.layers);
  std::atomic<bool> stop = false;
  Prefill prefill(f.decoder, cache,
                  {.hidden = {rows.data(), DType::kF32, f.table.rows, text.hidden, text.hidden},
                   .rope = &f.rope,
                   .table = &f.table,
                   .dense = &f.dense,
                   .sparse_from = 99,
                   .stop = &stop});
  prefill.step({}, false);
  stop = true;
  try {
    prefill.step({}, false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInterrupted);
  }
}

/// Decoding a token gives what prefilling it with the prompt gives.
TEST(Decode, EqualsPrefillOfTheLongerPrompt) {
  const Fixture f;
  const TextConfig& text = f.config.text;
  const std::int32_t rows = f.table.rows;
  std::vector<float> hidden = random_floats((rows + 1) * text.hidden, 3);
  f.decoder.embed(std::vector<std::int32_t>{42},
                  {hidden.data() + rows * text.hidden, DType::kF32, 1, text.hidden, text.hidden});
  const std::vector<float> prompt(hidden.begin(), hidden.begin() + rows * text.hidden);
  Positions positions;
  for (auto& axis : positions.axis) {
    axis.resize(static_cast<std::size_t>(rows) + 1);
    std::iota(axis.begin(), axis.end(), 0);
  }
  const RopeTable rope = make_rope_table(f.context, text, positions);
  const auto logits_of = [&](std::vector<float> x, std::int32_t l, bool then_decode) {
    const FrameTable table = make_frame_table(l, {});
    const AttentionPlan plan = make_plan(table, {});
    KvCache cache(f.context, text.heads, text.layers);
    Prefill prefill(f.decoder, cache,
                    {.hidden = {x.data(), DType::kF32, l, text.hidden, text.hidden},
                     .rope = &rope,
                     .table = &table,
                     .dense = &plan,
                     .sparse_from = 99});
    while (!prefill.done()) prefill.step({}, false);
    std::vector<float> logits(static_cast<std::size_t>(text.vocab));
    const MatrixView out{logits.data(), DType::kF32, 1, text.vocab, text.vocab};
    if (then_decode) return decode(f, cache, 42, l);
    prefill.last_logits(out);
    return logits;
  };
  const std::vector<float> decoded = logits_of(prompt, rows, true);
  const std::vector<float> prefilled = logits_of(hidden, rows + 1, false);
  for (std::size_t i = 0; i < decoded.size(); ++i) ASSERT_NEAR(decoded[i], prefilled[i], 1e-5);
}

}  // namespace
}  // namespace purekv
