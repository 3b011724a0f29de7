#include "text/pretokenizer.h"

#include <algorithm>
#include <array>
#include <limits>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/fail.h"
#include "text/message.h"
#include "text/pattern_check.h"
#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace purekv {
namespace {

constexpr std::size_t kMaxPatternBytes = 1U << 16U;
/// The interpreter's memory where there is no JIT, KiB.
constexpr std::uint32_t kHeapLimit = 256U * 1024U;
/// Steps of one match: a base, and more per byte since a run of spaces is tried from its end, step by step.
constexpr std::size_t kBaseSteps = 10'000'000, kStepsPerByte = 16;

std::string pcre2_message(int code) {
  std::array<unsigned char, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

const unsigned char* bytes_of(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

/// `text` with the code points that PCRE2 classifies otherwise replaced by ones of as many bytes. Returns `text`
/// itself where there are none, else a view of `storage`.
std::string_view with_stand_ins(std::string_view text, std::string& storage) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text.substr(at));
    if (step.length > 1) {
      const char32_t stand_in = class_stand_in(step.code);
      if (stand_in != step.code) {
        if (storage.empty()) storage = text;
        std::string swapped;
        append_utf8(swapped, stand_in);
        PUREKV_ASSERT(swapped.size() == step.length);
        storage.replace(at, step.length, swapped);
      }
    }
    at += step.length;
  }
  return storage.empty() ? text : std::string_view(storage);
}

/// Deleter for PCRE2's objects, none of which minds null.
template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* thing) const {
    Free(thing);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;

template <class T>
T checked(T thing) {
  if (!thing) fail(ErrorKind::kResource, "no memory for the tokenizer's split pattern; free some");
  return thing;
}

/// Finds matches from left to right as the reference's iterator does: an empty match where the last one ended is
/// passed over by one code point.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view subject)
      : code_(code),
        subject_(subject),
        context_(checked(MatchContext(pcre2_match_context_create(nullptr)))),
        data_(checked(MatchData(pcre2_match_data_create(1, nullptr)))) {
    const std::size_t steps = kBaseSteps + kStepsPerByte * subject.size();
    pcre2_set_match_limit(context_.get(), static_cast<std::uint32_t>(
                                              std::min<std::size_t>(steps, std::numeric_limits<std::uint32_t>::max())));
    pcre2_set_heap_limit(context_.get(), kHeapLimit);
  }

  /// False at the end.
  bool next() {
    while (from_ <= subject_.size() && search()) {
      if (begin == end && has_match_ && end == last_end_) {
        from_ += from_ < subject_.size() ? read_utf8(subject_.substr(from_)).length : 1;
        continue;
      }
      has_match_ = true;
      from_ = last_end_ = end;
      return true;
    }
    return false;
  }

  std::size_t begin = 0, end = 0;  ///< of the last match

 private:
  bool search() {
    // The text is known to be UTF-8; PCRE2's own check would read all of it again for every match.
    constexpr std::uint32_t kOptions = PCRE2_NO_UTF_CHECK;
    int status = pcre2_match(code_, bytes_of(subject_), subject_.size(), from_, kOptions, data_.get(), context_.get());
    if (status == PCRE2_ERROR_JIT_STACKLIMIT)
      status = pcre2_match(code_, bytes_of(subject_), subject_.size(), from_, kOptions | PCRE2_NO_JIT, data_.get(),
                           context_.get());
    if (status == PCRE2_ERROR_NOMATCH) return false;
    if (status < 0)
      fail(ErrorKind::kInput, "the tokenizer's split pattern fails on this text: {}; shorten the text",
           pcre2_message(status));
    const PCRE2_SIZE* const range = pcre2_get_ovector_pointer(data_.get());
    begin = range[0];
    end = range[1];
    return true;
  }

  const pcre2_code* code_;
  std::string_view subject_;
  MatchContext context_;
  MatchData data_;
  std::size_t from_ = 0, last_end_ = 0;
  bool has_match_ = false;
};

}  // namespace

struct SplitPattern::Compiled {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
};

SplitPattern::SplitPattern(const std::string& pattern, const std::string& place)
    : compiled_(std::make_unique<Compiled>()) {
  if (pattern.size() > kMaxPatternBytes)
    fail(ErrorKind::kInput, "{} has {} bytes: use at most {}", place, pattern.size(), kMaxPatternBytes);
  const std::string ambiguous = find_ambiguous_construct(pattern);
  if (!ambiguous.empty())
    fail(ErrorKind::kInput, "{} has '{}', which is not supported: use classes of general categories, \\s and \\d",
         place, shown(ambiguous));
  const CompileContext context = checked(CompileContext(pcre2_compile_context_create(nullptr)));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  compiled_->code.reset(pcre2_compile(bytes_of(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                      &error, &offset, context.get()));
  if (!compiled_->code)
    fail(ErrorKind::kInput, "{} is no valid pattern: {} at byte {}: copy the file again", place, pcre2_message(error),
         offset);
  // Where there is no JIT the interpreter does the same work.
  pcre2_jit_compile(compiled_->code.get(), PCRE2_JIT_COMPLETE);
}

SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;
SplitPattern::~SplitPattern() = default;

void SplitPattern::split(std::string_view piece, std::vector<std::string_view>& out) const {
  std::string storage;
  Matcher matcher(compiled_->code.get(), with_stand_ins(piece, storage));
  std::size_t done = 0;
  const auto put = [&](std::size_t begin, std::size_t end) {
    if (end > begin) out.push_back(piece.substr(begin, end - begin));
  };
  while (matcher.next()) {
    put(done, matcher.begin);
    put(matcher.begin, matcher.end);
    done = matcher.end;
  }
  put(done, piece.size());
}

std::string byte_level_pattern() {
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
}

PreTokenizer::Words PreTokenizer::split(std::string_view text) const {
  Words result;
  if (!text.empty()) result.words.push_back(text);
  std::vector<std::string_view> pieces;
  for (const auto& pattern : steps_) {
    pieces.swap(result.words);
    result.words.clear();
    for (const std::string_view piece : pieces) {
      if (pattern)
        pattern->split(piece, result.words);
      else
        result.words.push_back(piece.starts_with(' ') ? piece : result.owned.emplace_back(" ").append(piece));
    }
  }
  return result;
}

}  // namespace purekv
