#include "kernels/cuda/attention_sm80_tiles.h"

#include <bit>
#include <limits>

#include "device/transfer.h"

namespace purekv::cuda::sm80 {
namespace {

constexpr std::int64_t div_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

class TileMaker {
 public:
  TileMaker(const AttentionPlan* plan, const TileShape& shape) : plan_(plan), shape_(shape) {}

  TileList make() && {
    if (plan_ == nullptr)
      add_block({.first = 0, .count = shape_.rows});
    else
      for (const QueryBlock& block : plan_->blocks) add_block(block);
    split();
    sort();
    return std::move(list_);
  }

 private:
  void add_block(const QueryBlock& block) {
    const std::int32_t tokens = kTileRows / shape_.group;
    for (std::int32_t done = 0; done < block.count; done += tokens) {
      TileItem item{.first = block.first + done * block.step,
                    .count = std::min(tokens, block.count - done),
                    .step = block.step,
                    .range_begin = block.range_begin,
                    .range_end = block.range_end};
      item.seed_columns = seed_columns(item);
      item.slot_end = count_slots(item);
      list_.items.push_back(item);
    }
  }

  [[nodiscard]] std::int32_t seed_columns(const TileItem& item) const {
    if (plan_ == nullptr || plan_->seeds.empty()) return 0;
    std::int32_t columns = 0;
    for (std::int32_t i = 0; i < item.count; ++i) {
      const auto& seeds = plan_->seeds[static_cast<std::size_t>(item.first + i * item.step)];
      columns |= (seeds[0] >= 0 ? 1 : 0) | (seeds[1] >= 0 ? 2 : 0);
    }
    return columns;
  }

  [[nodiscard]] std::int32_t count_slots(const TileItem& item) const {
    std::int32_t slots = shape_.cached_rows;
    slots += std::popcount(static_cast<std::uint32_t>(item.seed_columns)) * item.count;
    for (std::int32_t r = item.range_begin; r < item.range_end; ++r) {
      const KeySpan span = visible_part(plan_->ranges[static_cast<std::size_t>(r)], item.first,
                                        item.first + (item.count - 1) * item.step);
      slots += span.end - span.begin;
    }
    return slots;
  }

  static std::int64_t key_tiles(const TileItem& item) { return div_up(item.slot_end - item.slot_begin, kTileKeys); }

  void split() {
    std::int64_t work = 0;
    for (const TileItem& item : list_.items) work += key_tiles(item) * shape_.kv_heads;
    const std::int64_t most = std::max(kLeastPieceTiles, div_up(work, kWorkShares));
    const std::int64_t piece_tiles = std::max(kLeastPieceTiles, div_up(work, kMostPieces));
    std::vector<TileItem> whole = std::move(list_.items);
    list_.items.clear();
    for (const TileItem& item : whole) {
      if (key_tiles(item) <= most)
        list_.items.push_back(item);
      else
        add_pieces(item, div_up(key_tiles(item), piece_tiles));
    }
  }

  void add_pieces(const TileItem& item, std::int64_t pieces) {
    const auto width = static_cast<std::int32_t>(div_up(key_tiles(item), pieces) * kTileKeys);
    MergeItem merge{.first = item.first, .count = item.count, .step = item.step, .begin = list_.partial_rows};
    for (std::int32_t begin = 0; begin < item.slot_end; begin += width) {
      TileItem piece = item;
      piece.slot_begin = begin;
      piece.slot_end = std::min(begin + width, item.slot_end);
      piece.partial = list_.partial_rows;
      list_.partial_rows += item.count * shape_.group;
      list_.items.push_back(piece);
      ++merge.pieces;
    }
    list_.merges.push_back(merge);
  }

  /// Long items first, so that none runs alone at the end. Only by powers of two: within one, neighbours stay
  /// neighbours and share their keys in the second-level cache.
  void sort() {
    std::stable_sort(list_.items.begin(), list_.items.end(), [](const TileItem& a, const TileItem& b) {
      return std::bit_width(static_cast<std::uint64_t>(key_tiles(a))) >
             std::bit_width(static_cast<std::uint64_t>(key_tiles(b)));
    });
  }

  const AttentionPlan* plan_;
  const TileShape& shape_;
  TileList list_;
};

TileShape tile_shape(const AttentionParams& p) {
  TileShape shape{.rows = static_cast<std::int32_t>(p.q.rows),
                  .group = static_cast<std::int32_t>(p.shape.group()),
                  .kv_heads = static_cast<std::int32_t>(p.shape.kv_heads)};
  for (const KvHeadView& head : p.cached.heads)
    shape.cached_rows = std::max(shape.cached_rows, static_cast<std::int32_t>(head.rows));
  return shape;
}

}  // namespace

TileList make_tiles(const AttentionPlan* plan, const TileShape& shape) { return TileMaker(plan, shape).make(); }

std::shared_ptr<const DeviceTiles> device_tiles(const Context& context, const AttentionParams& params) {
  const TileShape shape = tile_shape(params);
  const AttentionPlan* plan = params.plan;
  // The lists of a call with cached rows are its own: those rows differ from layer to layer.
  const bool keeps = plan != nullptr && shape.cached_rows == 0;
  if (keeps) {
    auto kept = std::dynamic_pointer_cast<const DeviceTiles>(plan->prepared);
    if (kept != nullptr && kept->shape == shape) return kept;
  }
  const TileList list = make_tiles(plan, shape);
  auto made = std::make_shared<DeviceTiles>();
  made->shape = shape;
  made->items = static_cast<std::int32_t>(list.items.size());
  made->merges = static_cast<std::int32_t>(list.merges.size());
  made->partial_rows = list.partial_rows;
  made->item_list = to_device(context, list.items);
  made->merge_list = to_device(context, list.merges);
  if (plan != nullptr) {
    made->ranges = to_device(context, plan->ranges);
    made->seeds = to_device(context, plan->seeds);
  }
  if (keeps) plan->prepared = made;
  return made;
}

}  // namespace purekv::cuda::sm80
