#pragma once

// The attention tile at the width of the including file; internal linkage throughout (cpu/simd.h).

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/simd.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

constexpr float kNone = -__builtin_inff();

inline float element(const void* data, bool bf16, std::int64_t i) {
  if (!bf16) return static_cast<const float*>(data)[i];
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(data)[i]) << 16U;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Which keys of a tile a row sees: [low, high).
struct Visible {
  std::int64_t low, high;
};

inline Visible visible(const KeySource& source, std::int64_t key, std::int64_t keys, std::int64_t row) {
  const std::int64_t first = source.first + key * source.step;
  Visible seen{0, keys};
  if (source.causal) {
    const std::int64_t room = row - first;
    const std::int64_t high = room < 0 ? 0 : room / source.step + 1;
    seen.high = high < keys ? high : keys;
  }
  const std::int64_t farthest = row - source.reach;
  if (farthest > first) seen.low = (farthest - first + source.step - 1) / source.step;
  return seen;
}

/// keys [count][head_dim] of the source from `key` on -> kt [head_dim][kTileKeys], zeros past count.
inline void pack_keys(const KeySource& source, std::int64_t key, std::int64_t count, std::int64_t head_dim, float* kt) {
  constexpr std::int64_t kBlock = 16;
  for (std::int64_t begin = 0; begin < kTileKeys; begin += kBlock) {
    for (std::int64_t j = begin; j < begin + kBlock; ++j) {
      const std::int64_t at = (source.first + (key + j) * source.step) * source.row_stride;
      if (j >= count)
        for (std::int64_t t = 0; t < head_dim; ++t) kt[t * kTileKeys + j] = 0;
      else if (source.bf16)
        for (std::int64_t t = 0; t < head_dim; ++t) kt[t * kTileKeys + j] = element(source.k, true, at + t);
      else
        for (std::int64_t t = 0; t < head_dim; ++t) kt[t * kTileKeys + j] = static_cast<const float*>(source.k)[at + t];
    }
  }
}

/// values -> v [count][padded], zeros past head_dim.
inline void pack_values(const KeySource& source, std::int64_t key, std::int64_t count, std::int64_t head_dim,
                        float* v) {
  const std::int64_t padded = padded_dim(head_dim);
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t at = (source.first + (key + j) * source.step) * source.row_stride;
    float* row = v + j * padded;
    for (std::int64_t t = 0; t < head_dim; ++t) row[t] = element(source.v, source.bf16, at + t);
    for (std::int64_t t = head_dim; t < padded; ++t) row[t] = 0;
  }
}

/// Logits of rows [row, row + rows) against the packed keys; what a row does not see is -inf. Returns how many
/// columns hold any key that any row sees, rounded up to whole vectors: later columns are not written.
inline std::int64_t tile_logits(const QueryTile& tile, const KeySource& source, const float* kt, std::int64_t key,
                                std::int64_t keys, std::int64_t row, std::int64_t rows, float* s) {
  std::int64_t end = 0;
  Visible seen[kTileRows];
  for (std::int64_t r = 0; r < rows; ++r) {
    seen[r] = visible(source, key, keys, tile.first + (row + r) / tile.group * tile.step);
    if (seen[r].low < seen[r].high && seen[r].high > end) end = seen[r].high;
  }
  if (end == 0) return 0;
  const std::int64_t columns = (end + kLanes - 1) / kLanes * kLanes;
  multiply_tile({.a = tile.q + row * tile.head_dim,
                 .a_stride = tile.head_dim,
                 .b = kt,
                 .b_stride = kTileKeys,
                 .c = s,
                 .c_stride = kTileKeys,
                 .rows = rows,
                 .cols = columns,
                 .depth = tile.head_dim,
                 .add = false});
  for (std::int64_t r = 0; r < rows; ++r) {
    float* logits = s + r * kTileKeys;
    for (std::int64_t j = 0; j < seen[r].low && j < columns; ++j) logits[j] = kNone;
    for (std::int64_t j = seen[r].high; j < columns; ++j) logits[j] = kNone;
  }
  return columns;
}

/// One row's online-softmax step: logits become probabilities, o is rescaled where the maximum rose.
inline void soften(float* s, std::int64_t columns, float* m, float* l, float* o, std::int64_t padded) {
  Vec top = load(s);
  for (std::int64_t j = kLanes; j < columns; j += kLanes) top = max(top, load(s + j));
  const float largest = max(top);
  if (largest > *m) {
    const float factor = sum(exp_negative(splat(*m - largest))) / kLanes;
    *l *= factor;
    if (o != nullptr)
      for (std::int64_t t = 0; t < padded; t += kLanes) store(o + t, load(o + t) * factor);
    *m = largest;
  }
  const Vec offset = splat(*m == kNone ? 0.0F : *m);
  Vec total{};
  for (std::int64_t j = 0; j < columns; j += kLanes) {
    const Vec p = exp_negative(load(s + j) - offset);
    store(s + j, p);
    total += p;
  }
  *l += sum(total);
}

void accumulate(const QueryTile& tile, const KeySource& source, const SoftmaxState& state) {
  const std::int64_t padded = padded_dim(tile.head_dim);
  float* kt = state.work;
  float* packed = kt + kTileKeys * tile.head_dim;
  float* s = packed + kTileKeys * padded;
  const bool in_place = !source.bf16 && source.step == 1 && padded == tile.head_dim;
  for (std::int64_t key = 0; key < source.count; key += kTileKeys) {
    const std::int64_t keys = source.count - key < kTileKeys ? source.count - key : kTileKeys;
    bool is_packed = false;
    const float* v = packed;
    std::int64_t v_stride = padded;
    for (std::int64_t row = 0; row < tile.rows; row += kTileRows) {
      const std::int64_t rows = tile.rows - row < kTileRows ? tile.rows - row : kTileRows;
      // A chunk ends at its last row: keys after it are seen by none of its rows.
      const std::int64_t last = tile.first + (row + rows - 1) / tile.group * tile.step;
      if (source.causal && source.first + key * source.step > last) continue;
      if (!is_packed) {
        pack_keys(source, key, keys, tile.head_dim, kt);
        if (state.o != nullptr && in_place) {
          v = static_cast<const float*>(source.v) + (source.first + key) * source.row_stride;
          v_stride = source.row_stride;
        } else if (state.o != nullptr) {
          pack_values(source, key, keys, tile.head_dim, packed);
        }
        is_packed = true;
      }
      const std::int64_t columns = tile_logits(tile, source, kt, key, keys, row, rows, s);
      if (columns == 0) continue;
      for (std::int64_t r = 0; r < rows; ++r)
        soften(s + r * kTileKeys, columns, state.m + row + r, state.l + row + r,
               state.o == nullptr ? nullptr : state.o + (row + r) * padded, padded);
      if (state.o == nullptr) continue;
      multiply_tile({.a = s,
                     .a_stride = kTileKeys,
                     .b = v,
                     .b_stride = v_stride,
                     .c = state.o + row * padded,
                     .c_stride = padded,
                     .rows = rows,
                     .cols = padded,
                     .depth = columns < keys ? columns : keys,
                     .add = true});
    }
  }
}

void seed(const QueryTile& tile, const KeySource& source, const SoftmaxState& state) {
  const std::int64_t d = tile.head_dim;
  const std::int64_t padded = padded_dim(d);
  const std::int64_t at = source.first * source.row_stride;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    // Independent sums, so that the compiler may keep them in one register.
    float parts[kLanes] = {};
    std::int64_t t0 = 0;
    for (; t0 + kLanes <= d; t0 += kLanes)
      for (int i = 0; i < kLanes; ++i) parts[i] += tile.q[r * d + t0 + i] * element(source.k, source.bf16, at + t0 + i);
    float logit = sum(load(parts));
    for (; t0 < d; ++t0) logit += tile.q[r * d + t0] * element(source.k, source.bf16, at + t0);
    const float top = logit > state.m[r] ? logit : state.m[r];
    const float before = state.l[r] > 0 ? sum(exp_negative(splat(state.m[r] - top))) / kLanes : 0.0F;
    const float now = sum(exp_negative(splat(logit - top))) / kLanes;
    float* o = state.o + r * padded;
    for (std::int64_t t = 0; t < d; ++t) o[t] = o[t] * before + now * element(source.v, source.bf16, at + t);
    state.l[r] = state.l[r] * before + now;
    state.m[r] = top;
  }
}

/// Adds one row's probabilities of a key tile to its head's columns.
inline void add_columns(const float* s, std::int64_t columns, std::int64_t keys, float lse, bool is_sum, float* out) {
  float p[kTileKeys];
  const Vec offset = splat(lse == kNone ? 0.0F : lse);
  for (std::int64_t j = 0; j < columns; j += kLanes) {
    // Rounding can put a logit a hair above its log-sum-exp; exp_negative ends at 0.
    const Vec x = load(s + j) - offset;
    store(p + j, exp_negative(x < Vec{} ? x : Vec{}));
  }
  const std::int64_t count = columns < keys ? columns : keys;
  if (is_sum)
    for (std::int64_t j = 0; j < count; ++j) out[j] += p[j];
  else
    for (std::int64_t j = 0; j < count; ++j) out[j] = out[j] > p[j] ? out[j] : p[j];
}

void columns(const QueryTile& tile, const KeySource& source, const ColumnScores& scores) {
  float* kt = scores.work;
  float* s = kt + kTileKeys * tile.head_dim;
  for (std::int64_t key = 0; key < source.count; key += kTileKeys) {
    const std::int64_t keys = source.count - key < kTileKeys ? source.count - key : kTileKeys;
    pack_keys(source, key, keys, tile.head_dim, kt);
    for (std::int64_t row = 0; row < tile.rows; row += kTileRows) {
      const std::int64_t rows = tile.rows - row < kTileRows ? tile.rows - row : kTileRows;
      const std::int64_t seen = tile_logits(tile, source, kt, key, keys, row, rows, s);
      for (std::int64_t r = 0; seen > 0 && r < rows; ++r)
        add_columns(s + r * kTileKeys, seen, keys, scores.lse[row + r], scores.sum,
                    scores.out + (row + r) % tile.group * source.count + key);
    }
  }
}

void quadratic(const float* v, const float* gram, std::int64_t rows, std::int64_t padded, float* work, float* out) {
  multiply_tile({.a = v,
                 .a_stride = padded,
                 .b = gram,
                 .b_stride = padded,
                 .c = work,
                 .c_stride = padded,
                 .rows = rows,
                 .cols = padded,
                 .depth = padded,
                 .add = false});
  for (std::int64_t r = 0; r < rows; ++r) {
    Vec total{};
    for (std::int64_t t = 0; t < padded; t += kLanes) total += load(v + r * padded + t) * load(work + r * padded + t);
    const float square = sum(total);
    out[r] = square > 0 ? __builtin_sqrtf(square) : 0.0F;
  }
}

void add_gram(const float* a, const float* transposed, std::int64_t depth, std::int64_t padded, float* gram) {
  multiply_tile({.a = transposed,
                 .a_stride = depth,
                 .b = a,
                 .b_stride = padded,
                 .c = gram,
                 .c_stride = padded,
                 .rows = padded,
                 .cols = padded,
                 .depth = depth,
                 .add = true});
}

}  // namespace
}  // namespace purekv
