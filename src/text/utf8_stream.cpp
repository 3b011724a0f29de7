#include "purekv/tokenizer.h"
#include "text/utf8.h"

namespace purekv {

std::string Utf8Stream::push(std::string_view bytes) {
  std::string whole;
  tail_ += bytes;
  tail_.erase(0, append_lossy(whole, tail_, true));
  return whole;
}

std::string Utf8Stream::finish() {
  std::string rest;
  append_lossy(rest, tail_, false);
  tail_.clear();
  return rest;
}

}  // namespace purekv
