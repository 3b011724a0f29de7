#include "text/json_node.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "base/fail.h"
#include "text/message.h"

namespace purekv {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxPathShown = 1000;
/// What a field that is absent refers to.
const json kNull;

/// A value of any size in few words.
std::string brief(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_string()) return fmt::format("\"{}\"", shown(value.get_ref<const std::string&>()));
  return value.dump();
}

/// Closes on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

JsonNode JsonNode::field(const char* name) const {
  require_object();
  const auto it = value_->find(name);
  return {it == value_->end() ? kNull : *it, fmt::format("{}{}{}", place_, joint_, name)};
}

JsonNode JsonNode::item(std::size_t index) const { return {(*value_)[index], fmt::format("{}[{}]", place_, index)}; }

const std::string& JsonNode::text() const {
  if (!value_->is_string()) refuse("a string belongs there; copy the file again");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::flag_or(bool absent) const {
  if (is_null()) return absent;
  if (!value_->is_boolean()) refuse("true or false belongs there; copy the file again");
  return value_->get<bool>();
}

std::optional<std::int32_t> JsonNode::as_id() const {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max());
  if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > kMax) return std::nullopt;
  return value_->get<std::int32_t>();
}

std::int32_t JsonNode::id() const {
  if (const auto id = as_id()) return *id;
  refuse(kIdRemedy);
}

std::string JsonNode::type() const { return field("type").text(); }

void JsonNode::require_object() const {
  if (!value_->is_object()) refuse("an object belongs there; copy the file again");
}

void JsonNode::require_array() const {
  if (!value_->is_array()) refuse("a list belongs there; copy the file again");
}

void JsonNode::refuse(std::string_view remedy) const {
  if (is_null()) fail(ErrorKind::kInput, "{} is missing: {}", place_, remedy);
  fail(ErrorKind::kInput, "{} is {}: {}", place_, brief(*value_), remedy);
}

std::string read_regular_file(const std::string& path, std::size_t max_bytes) {
  const std::string name = shown(path, kMaxPathShown);
  // O_NONBLOCK: opening a FIFO without a writer would wait for ever.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0)
    fail(ErrorKind::kInput, "{}: {}: name a folder with a tokenizer.json", name, std::strerror(errno));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    fail(ErrorKind::kInput, "{}: is not a regular file: name a folder with a tokenizer.json", name);
  if (static_cast<std::uint64_t>(status.st_size) > max_bytes)
    fail(ErrorKind::kInput, "{}: has {} bytes, at most {} are read: copy the file again", name, status.st_size,
         max_bytes);
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kInput, "{}: {}: check the disk", name, std::strerror(errno));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace purekv
