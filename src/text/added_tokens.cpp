#include "text/added_tokens.h"

#include <algorithm>

#include "text/word_class.h"

namespace purekv {

void AddedTokenFinder::add(const AddedToken& token) {
  if (token.pattern.empty()) return;
  // Node 0 is the root; a node's number is its place in ends_.
  std::uint32_t node = 0;
  for (const char c : token.pattern) {
    const std::uint64_t edge = static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
    const auto [it, is_new] = edges_.try_emplace(edge, static_cast<std::uint32_t>(ends_.size()));
    if (is_new) ends_.push_back(-1);
    node = it->second;
  }
  ends_[node] = static_cast<std::int64_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokenFinder::Match AddedTokenFinder::match(std::string_view text) const {
  Match best;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto it = edges_.find(static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (ends_[node] >= 0) best = {i + 1, static_cast<std::size_t>(ends_[node])};
  }
  return best;
}

void AddedTokenFinder::split(std::string_view text, std::vector<TextPart>& parts) const {
  std::size_t done = 0;
  std::size_t at = 0;
  const std::size_t last = tokens_.empty() ? 0 : text.size();
  while (at < last) {
    const Match found = match(text.substr(at));
    if (found.length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[found.token];
    std::size_t begin = at;
    std::size_t end = at + found.length;
    // The search goes on behind the token itself: another that begins in white space which rstrip took is found too.
    at = end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(begin - trailing_space(text.substr(0, begin)), done);
    if (token.rstrip) end += leading_space(text.substr(end));
    if (begin > done) parts.push_back({-1, text.substr(done, begin - done)});
    // Nothing is left of a token in such white space where lstrip moved its start behind it.
    if (end > begin) parts.push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, text.substr(done)});
}

}  // namespace purekv
