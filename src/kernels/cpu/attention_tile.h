#pragma once

#include <cstdint>

namespace purekv {

/// Keys and values of one KV head and which of them a query block sees. Plain data: it crosses into
/// files that are compiled for other instruction sets.
struct KeySource {
  const void* k = nullptr;
  const void* v = nullptr;      ///< null where only logits are asked for
  std::int64_t row_stride = 0;  ///< elements
  bool bf16 = false;            ///< else float32
  std::int32_t first = 0, count = 0, step = 1;
  bool causal = false;  ///< key j is seen by row i where j <= i
  std::int32_t reach = 0x7FFFFFFF;
};

/// Rows first, first + step, ... of one KV head's query group, packed: packed row r is query
/// first + (r / group) * step of head r % group.
struct QueryTile {
  const float* q = nullptr;  ///< [rows][head_dim], already scaled
  std::int32_t first = 0, step = 1;
  std::int32_t rows = 0;  ///< packed
  std::int32_t group = 1;
  std::int32_t head_dim = 0;
};

/// Running state of the online softmax, and room to work.
struct SoftmaxState {
  float* o = nullptr;  ///< [rows][padded_dim]; null: only m and l are wanted
  float* m = nullptr;  ///< [rows] largest logit so far
  float* l = nullptr;  ///< [rows] sum of exp(logit - m)
  float* work = nullptr;
};

/// Column scores: over the rows of a tile, exp(logit - lse of the row), for each head of the group.
struct ColumnScores {
  const float* lse = nullptr;  ///< [rows] packed like the tile
  float* out = nullptr;        ///< [group][count], updated in place: max, or sum
  bool sum = false;
  float* work = nullptr;
};

constexpr std::int64_t kTileKeys = 64;
constexpr std::int64_t kTileRows = 24;  ///< rows whose logits stay in the first-level cache

[[nodiscard]] constexpr std::int64_t padded_dim(std::int64_t head_dim) {
  constexpr std::int64_t kPad = 16;
  return (head_dim + kPad - 1) / kPad * kPad;
}

/// Floats of `work`: transposed keys, values, logits.
[[nodiscard]] constexpr std::int64_t tile_work(std::int64_t head_dim) {
  return kTileKeys * head_dim + kTileKeys * padded_dim(head_dim) + kTileRows * kTileKeys;
}

/// The closed table: one row an instruction set.
struct AttentionIsa {
  /// Adds the keys of `source` to `state`. 4 * pairs * head_dim FLOPs.
  void (*accumulate)(const QueryTile& tile, const KeySource& source, const SoftmaxState& state);
  /// The same for one key that all rows of the tile see: seeds, 4 * rows * head_dim FLOPs.
  void (*seed)(const QueryTile& tile, const KeySource& source, const SoftmaxState& state);
  /// 2 * pairs * head_dim FLOPs.
  void (*columns)(const QueryTile& tile, const KeySource& source, const ColumnScores& scores);
  /// out[i] = sqrt(max(0, v_i^T gram v_i)); v [rows][padded], gram [padded][padded], work [rows][padded].
  void (*quadratic)(const float* v, const float* gram, std::int64_t rows, std::int64_t padded, float* work, float* out);
  /// gram [padded][padded] += a^T a of a [depth][padded]; transposed [padded][depth] is a^T.
  void (*gram)(const float* a, const float* transposed, std::int64_t depth, std::int64_t padded, float* gram);
};

extern const AttentionIsa kAttentionGeneric;
extern const AttentionIsa kAttentionAvx2;
extern const AttentionIsa kAttentionAvx512;

/// The row of the table that this machine runs.
const AttentionIsa& attention_isa();

}  // namespace purekv
