// The tokenizer of a build without PCRE2 and utf8proc (-DPUREKV_TEXT=OFF).
#include "purekv/tokenizer.h"

#include "base/fail.h"

namespace purekv {

struct Tokenizer::State {};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

bool Tokenizer::built_in() { return false; }

Tokenizer Tokenizer::load(const std::string& path) {
  fail(ErrorKind::kInput, "{}: this build has no tokenizer; build with -DPUREKV_TEXT=ON, or give token ids", path);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view /*utf8*/, bool /*special*/) const { return {}; }

std::string Tokenizer::decode(const std::vector<std::int32_t>& /*ids*/, bool /*special*/) const { return {}; }

std::string Tokenizer::bytes_of(std::int32_t /*id*/) const { return {}; }

std::int32_t Tokenizer::added_id(std::string_view /*text*/) const { return -1; }

}  // namespace purekv
