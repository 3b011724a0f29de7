#include "cache/kv_batch.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "device/transfer.h"

namespace purekv {
namespace {

bool same(const KvRows& a, const KvRows& b) { return a.k == b.k && a.v == b.v && a.rows == b.rows; }

}  // namespace

KvBatch::KvBatch(const Context& context, std::vector<KvCache*> caches) : context_(context), caches_(std::move(caches)) {
  PUREKV_ASSERT(!caches_.empty());
  const KvCache& one = *caches_.front();
  mirror_.resize(static_cast<std::size_t>(one.layers() * sequences() * one.shape().kv_heads));
  table_ = to_device(context_, mirror_);
}

void KvBatch::prepare() {
  std::size_t next = 0;
  std::size_t begin = mirror_.size();
  std::size_t end = 0;
  for (std::int64_t layer = 0; layer < caches_.front()->layers(); ++layer)
    for (KvCache* cache : caches_) {
      cache->reserve(layer);
      for (const KvRows& head : cache->heads(layer)) {
        if (!same(mirror_[next], head)) {
          mirror_[next] = head;
          begin = std::min(begin, next);
          end = next + 1;
        }
        ++next;
      }
    }
  if (end == 0) return;
  upload(context_, entries() + begin, mirror_.data() + begin,
         static_cast<std::int64_t>((end - begin) * sizeof(KvRows)));
}

void KvBatch::appended(std::span<const std::int32_t> tokens) {
  PUREKV_ASSERT(tokens.size() == caches_.size());
  for (std::size_t i = 0; i < caches_.size(); ++i) caches_[i]->appended(tokens[i]);
  for (KvRows& head : mirror_) ++head.rows;
}

const KvRows* KvBatch::table(std::int64_t layer) const {
  return entries() + layer * sequences() * caches_.front()->shape().kv_heads;
}

std::int64_t KvBatch::most_rows() const {
  std::int64_t most = 0;
  for (const KvCache* cache : caches_) most = std::max(most, cache->most_rows());
  return most;
}

}  // namespace purekv
