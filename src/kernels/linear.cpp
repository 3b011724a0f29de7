#include "kernels/linear.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "device/buffer.h"
#include "kernels/activation.h"
#include "kernels/cpu/linear_tile.h"
#include "kernels/cpu/tile_memory.h"
#include "kernels/cuda/ops.h"
#include "kernels/rms_norm.h"

namespace purekv {
namespace {

/// Up to so many rows weights are read in place; from there on packing them pays.
constexpr std::int64_t kStreamRows = 8;
constexpr std::int64_t kStreamBytes = 128LL << 10U;  ///< of weights a work item
/// Fewer multiplications than this cost less than waking a thread.
constexpr std::int64_t kAlone = 1LL << 16U;
constexpr std::int64_t kItemCols = 128;  ///< columns of a work item: its packed weights stay in the second-level cache
constexpr std::int64_t kBlockRows = 96;  ///< rows whose packed slice stays there beside them
constexpr std::int64_t kPackedBytes = 16LL << 20U;  ///< packed rows alive at once

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Products of bf16 pairs, or float32 products of a rounded x: what context.compute asks for.
bool rounds(const Context& context, const LinearParams& p) {
  return context.compute == DType::kBF16 && p.w.weight.dtype == DType::kBF16;
}

const float* bias_at(const LinearParams& p, std::int64_t column) {
  return p.w.bias == nullptr ? nullptr : p.w.bias + column;
}

WeightRows weight_rows(const LinearParams& p, std::int64_t begin, std::int64_t count) {
  return {p.w.weight.slice(begin, count).data, p.w.weight.dtype, p.w.weight.stride, count};
}

/// Few rows: every thread reads its own weights once.
void stream_rows(const LinearIsa& isa, int threads, const LinearParams& p, const ConstMatrixView& x) {
  const std::int64_t columns = p.w.weight.rows;
  const std::int64_t row_bytes =
      std::max<std::int64_t>(1, x.cols) * static_cast<std::int64_t>(size_of(p.w.weight.dtype));
  const std::int64_t wanted = std::max<std::int64_t>(1, columns * row_bytes / kStreamBytes);
  // A multiple of the threads, so that none is left with an item more than the others.
  const std::int64_t items = std::min(columns, ceil_div(wanted, threads) * threads);
  parallel_for(threads, items, [&](std::int64_t i) {
    const std::int64_t begin = columns * i / items;
    const std::int64_t count = columns * (i + 1) / items - begin;
    isa.stream({.x = x.row<float>(0),
                .x_stride = x.stride,
                .rows = x.rows,
                .depth = x.cols,
                .weight = weight_rows(p, begin, count),
                .bias = bias_at(p, begin),
                .out = p.out.row<float>(0) + begin,
                .out_stride = p.out.stride,
                .add = p.accumulate});
  });
}

/// At least `bytes` of the calling thread's own, 64-byte aligned, apart from tile_memory(); good until the next call.
/// Kept, because touching fresh pages costs up to a tenth of the product.
std::byte* packed_memory(const Context& context, std::int64_t bytes) {
  static thread_local Buffer memory;
  if (memory.bytes() < bytes) {
    memory = Buffer();
    memory = Buffer(context, bytes);
  }
  return memory.as<std::byte>();
}

/// How a call is cut. The sum's slices depend on the shape alone: no result depends on the threads or on other rows.
struct Cut {
  std::int64_t slices = 0, depth = 0;  ///< of the sum
  std::int64_t column_items = 0, row_items = 0, panels = 0;
};

Cut cut_of(const LinearIsa& isa, int threads, std::int64_t rows, const LinearParams& p) {
  constexpr std::int64_t kDepthStep = 32;
  Cut cut;
  cut.slices = std::max<std::int64_t>(1, ceil_div(p.x.cols, isa.depth));
  cut.depth = std::min(isa.depth, ceil_div(ceil_div(p.x.cols, cut.slices), kDepthStep) * kDepthStep);
  cut.panels = ceil_div(p.w.weight.rows, isa.tile_cols);
  const std::int64_t items = ceil_div(p.w.weight.rows, kItemCols);
  cut.column_items = std::min(cut.panels, ceil_div(items, threads) * threads);
  const std::int64_t most_row_items = std::max<std::int64_t>(1, rows / (4 * isa.tile_rows));
  cut.row_items = std::clamp<std::int64_t>(ceil_div(threads, cut.column_items), 1, most_row_items);
  return cut;
}

/// Rows of x, packed: [slices][row tiles][tile_rows][depth].
struct PackedRows {
  const std::byte* data;
  std::int64_t tile_bytes, slice_bytes;
};

DepthSlice slice_of(const Cut& cut, const LinearParams& p, std::int64_t slice) {
  const std::int64_t first = slice * cut.depth;
  return {first, std::min(cut.depth, p.x.cols - first)};
}

/// One work item: some columns of some rows, over the whole sum.
void multiply_item(const LinearIsa& isa, const LinearParams& p, const Cut& cut, const PackedRows& packed,
                   std::int64_t item) {
  const std::int64_t at = item % cut.column_items;
  const std::int64_t tiles = ceil_div(p.x.rows, isa.tile_rows);
  const std::int64_t row_item = item / cut.column_items;
  const std::int64_t first_row = tiles * row_item / cut.row_items * isa.tile_rows;
  const std::int64_t last_row = std::min(p.x.rows, tiles * (row_item + 1) / cut.row_items * isa.tile_rows);
  const std::int64_t column = cut.panels * at / cut.column_items * isa.tile_cols;
  const std::int64_t end = std::min(p.w.weight.rows, cut.panels * (at + 1) / cut.column_items * isa.tile_cols);
  const std::int64_t panels = ceil_div(end - column, isa.tile_cols);
  float* weight = tile_memory(panels * isa.tile_cols * isa.depth * isa.element / 4);
  const std::int64_t step = std::max<std::int64_t>(1, kBlockRows / isa.tile_rows) * isa.tile_rows;
  for (std::int64_t slice = 0; slice < cut.slices; ++slice) {
    const DepthSlice depth = slice_of(cut, p, slice);
    isa.pack_weight(weight_rows(p, column, end - column), depth, weight);
    for (std::int64_t row = first_row; row < last_row; row += step)
      isa.multiply({.x = packed.data + slice * packed.slice_bytes + row / isa.tile_rows * packed.tile_bytes,
                    .weight = weight,
                    .out = p.out.row<float>(row) + column,
                    .out_stride = p.out.stride,
                    .rows = std::min(step, last_row - row),
                    .cols = end - column,
                    .depth = depth.depth,
                    .bias = slice == 0 ? bias_at(p, column) : nullptr,
                    .add = p.accumulate || slice > 0});
  }
}

/// Many rows: x is packed once, every thread packs the weights of its own columns.
void multiply_rows(const LinearIsa& isa, const Context& context, const LinearParams& p, int threads) {
  const Cut cut = cut_of(isa, threads, p.x.rows, p);
  const std::int64_t tiles = ceil_div(p.x.rows, isa.tile_rows);
  const std::int64_t tile_bytes = isa.tile_rows * isa.depth * isa.element;
  std::byte* data = packed_memory(context, cut.slices * tiles * tile_bytes);
  parallel_for(threads, tiles, [&](std::int64_t tile) {
    const std::int64_t row = tile * isa.tile_rows;
    const InputRows x{p.x.row<float>(row), p.x.stride, std::min(isa.tile_rows, p.x.rows - row), rounds(context, p)};
    for (std::int64_t slice = 0; slice < cut.slices; ++slice)
      isa.pack_x(x, slice_of(cut, p, slice), data + (slice * tiles + tile) * tile_bytes);
  });
  const PackedRows packed{data, tile_bytes, tiles * tile_bytes};
  parallel_for(threads, cut.column_items * cut.row_items,
               [&](std::int64_t item) { multiply_item(isa, p, cut, packed, item); });
}

ConstMatrixView normed(const Context& context, const ConstMatrixView& x, const NormOperand& norm) {
  const MatrixView out = norm.work.slice(0, x.rows);
  rms_norm(context, {.x = x, .weight = norm.weight, .eps = norm.eps, .out = out});
  return out;
}

void stream_call(const LinearIsa& isa, const Context& context, const LinearParams& p, int threads) {
  if (!rounds(context, p)) return stream_rows(isa, threads, p, p.x);
  const Matrix memory(context, DType::kF32, p.x.rows, p.x.cols);
  for (std::int64_t r = 0; r < p.x.rows; ++r)
    std::transform(p.x.row<float>(r), p.x.row<float>(r) + p.x.cols, memory.view().row<float>(r),
                   [](float x) { return to_float(to_bf16(x)); });
  stream_rows(isa, threads, p, memory.view());
}

}  // namespace

void linear_on(const LinearIsa& isa, const Context& context, const LinearParams& params) {
  const std::int64_t rows = params.x.rows;
  const std::int64_t work = rows * params.x.cols * params.w.weight.rows;
  const int threads = work < kAlone ? 1 : context.threads;
  if (rows <= kStreamRows) return stream_call(isa, context, params, threads);
  const std::int64_t row_bytes = std::max<std::int64_t>(1, params.x.cols) * isa.element;
  const std::int64_t most = std::max<std::int64_t>(kBlockRows, kPackedBytes / row_bytes);
  const std::int64_t passes = ceil_div(rows, most);
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    const std::int64_t begin = rows * pass / passes;
    const std::int64_t count = rows * (pass + 1) / passes - begin;
    LinearParams part = params;
    part.x = params.x.slice(begin, count);
    part.out = params.out.slice(begin, count);
    multiply_rows(isa, context, part, threads);
  }
}

void linear(const Context& context, const LinearParams& params) {
  LinearParams p = params;
  PUREKV_ASSERT(p.x.cols == p.w.weight.cols && p.x.rows == p.out.rows && p.w.weight.rows == p.out.cols);
  PUREKV_ASSERT(p.norm.weight == nullptr || p.norm.work.rows >= p.x.rows);
  if (p.x.rows == 0 || p.w.weight.rows == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::linear(context, p);
  PUREKV_ASSERT(p.x.dtype == DType::kF32 && p.out.dtype == DType::kF32);
  if (p.norm.weight != nullptr) p.x = normed(context, p.x, p.norm);
  linear_on(linear_isa(rounds(context, p)), context, p);
}

void gated_linear(const Context& context, const GatedLinearParams& params) {
  const GatedLinearParams& p = params;
  PUREKV_ASSERT(p.gate.weight.rows == p.up.weight.rows && p.out.cols == p.gate.weight.rows);
  PUREKV_ASSERT(p.out.rows == p.x.rows && p.work.rows >= p.x.rows && p.work.cols == p.out.cols);
  if (p.x.rows == 0) return;
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::gated_linear(context, p);
  const ConstMatrixView x = p.norm.weight != nullptr ? normed(context, p.x, p.norm) : p.x;
  const MatrixView up = p.work.slice(0, p.x.rows);
  linear(context, {.x = x, .norm = {}, .w = p.gate, .out = p.out});
  linear(context, {.x = x, .norm = {}, .w = p.up, .out = up});
  swiglu(context, p.out, up);
}

}  // namespace purekv
