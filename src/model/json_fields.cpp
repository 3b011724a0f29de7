#include "model/json_fields.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/fail.h"

namespace purekv {
namespace {

using nlohmann::json;

/// A value of any size in few words.
std::string brief(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  return printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 60);
}

/// Refuses what a document tree must not hold, while it is being built.
class StrictParse {
 public:
  StrictParse(const std::string& place, const JsonLimits& limits) : place_(place), limits_(limits) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    using Event = json::parse_event_t;
    if (event == Event::object_end || event == Event::array_end) {
      if (event == Event::object_end) keys_.pop_back();
      return true;
    }
    if (++values_ > limits_.values)
      fail(ErrorKind::kInput, "{}: more than {} JSON values: the file is damaged", place_, limits_.values);
    if (static_cast<std::size_t>(depth) > limits_.depth)
      fail(ErrorKind::kInput, "{}: JSON nested deeper than {}: the file is damaged", place_, limits_.depth);
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::key && !keys_.back().insert(parsed.get_ref<const std::string&>()).second)
      fail(ErrorKind::kInput, "{}: the key '{}' stands twice: keep one of them", place_,
           printable(parsed.get_ref<const std::string&>()));
    return true;
  }

 private:
  const std::string& place_;
  const JsonLimits& limits_;
  std::size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  ///< of the objects that are open
};

/// Closes on every way out.
struct Descriptor {
  int fd = -1;
  Descriptor() = default;
  explicit Descriptor(int fd_) : fd(fd_) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  std::string out(text.size() <= limit ? text : text.substr(0, limit / 2));
  if (text.size() > limit) out.append("...").append(text.substr(text.size() - limit / 2));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return out;
}

std::string read_small_file(const std::string& path, std::size_t max_bytes) {
  const std::string name = printable(path, 1000);
  // O_NONBLOCK: opening a FIFO without a writer would wait for ever.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0)
    fail(ErrorKind::kInput, "{}: {}: give the directory of a complete checkpoint", name, std::strerror(errno));
  struct stat status {};
  if (::fstat(file.fd, &status) != 0 || !S_ISREG(status.st_mode))
    fail(ErrorKind::kInput, "{}: is not a regular file: give the directory of a complete checkpoint", name);
  if (static_cast<std::uint64_t>(status.st_size) > max_bytes)
    fail(ErrorKind::kInput, "{}: {} bytes, at most {} are read: the file is damaged", name, status.st_size, max_bytes);
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kInput, "{}: {}: check the disk", name, std::strerror(errno));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

json parse_json_object(std::string_view text, const std::string& place, const JsonLimits& limits) {
  json root;
  try {
    StrictParse strict(place, limits);
    root = json::parse(text.begin(), text.end(), std::ref(strict));
  } catch (const json::parse_error& error) {
    fail(ErrorKind::kInput, "{}: no valid JSON at byte {}: copy the file again", place, error.byte);
  } catch (const json::exception&) {
    fail(ErrorKind::kInput, "{}: JSON holds a number that no float64 can hold: copy the file again", place);
  }
  if (!root.is_object())
    fail(ErrorKind::kInput, "{}: JSON is {}, not an object: copy the file again", place, brief(root));
  return root;
}

const json* JsonFields::find(const char* name) const {
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::refuse(const char* name, std::string_view remedy) const {
  const json* value = find(name);
  if (value == nullptr) fail(ErrorKind::kInput, "{}: {} is missing: {}", place_, name, remedy);
  fail(ErrorKind::kInput, "{}: {} is {}: {}", place_, name, brief(*value), remedy);
}

std::int64_t JsonFields::checked(const json& value, const char* name, IntegerRange range) const {
  // nlohmann keeps what exceeds int64 as unsigned; a cast would wrap it.
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > kMax);
  if (fits && value.get<std::int64_t>() >= range.low && value.get<std::int64_t>() <= range.high)
    return value.get<std::int64_t>();
  fail(ErrorKind::kInput, "{}: {} is {}: use an integer from {} to {}", place_, name, brief(value), range.low,
       range.high);
}

double JsonFields::checked(const json& value, const char* name, NumberRange range) const {
  if (value.is_number() && value.get<double>() >= range.low && value.get<double>() <= range.high)
    return value.get<double>();
  fail(ErrorKind::kInput, "{}: {} is {}: use a number from {} to {}", place_, name, brief(value), range.low,
       range.high);
}

std::int64_t JsonFields::integer(const char* name, IntegerRange range) const {
  const json* value = find(name);
  if (value == nullptr)
    fail(ErrorKind::kInput, "{}: {} is missing: use an integer from {} to {}", place_, name, range.low, range.high);
  return checked(*value, name, range);
}

std::int64_t JsonFields::integer_or(const char* name, std::int64_t absent, IntegerRange range) const {
  const json* value = find(name);
  return value == nullptr ? absent : checked(*value, name, range);
}

double JsonFields::number_or(const char* name, double absent, NumberRange range) const {
  const json* value = find(name);
  return value == nullptr ? absent : checked(*value, name, range);
}

bool JsonFields::flag_or(const char* name, bool absent) const {
  const json* value = find(name);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) refuse(name, "use true or false");
  return value->get<bool>();
}

std::string JsonFields::text_or(const char* name, const std::string& absent) const {
  const json* value = find(name);
  if (value == nullptr) return absent;
  if (!value->is_string()) refuse(name, "use a string");
  return value->get<std::string>();
}

std::vector<std::int64_t> JsonFields::integers(const char* name, IntegerRange range, std::size_t max_count) const {
  const json* value = find(name);
  if (value == nullptr) refuse(name, "use a list of integers");
  if (!value->is_array()) return {checked(*value, name, range)};
  if (value->size() > max_count) refuse(name, fmt::format("use a list of at most {}", max_count));
  std::vector<std::int64_t> out;
  for (const json& item : *value) out.push_back(checked(item, name, range));
  return out;
}

std::vector<double> JsonFields::numbers(const char* name, NumberRange range, std::size_t count) const {
  const json* value = find(name);
  if (value == nullptr || !value->is_array() || value->size() != count)
    refuse(name, fmt::format("use a list of {} numbers", count));
  std::vector<double> out;
  for (const json& item : *value) out.push_back(checked(item, name, range));
  return out;
}

std::vector<std::string> JsonFields::texts(const char* name, std::size_t max_count) const {
  const json* value = find(name);
  const auto is_text = [](const json& item) { return item.is_string(); };
  if (value == nullptr || !value->is_array() || value->size() > max_count ||
      !std::all_of(value->begin(), value->end(), is_text))
    refuse(name, fmt::format("use a list of at most {} strings", max_count));
  return value->get<std::vector<std::string>>();
}

JsonFields JsonFields::object(const char* name) const {
  const json* value = find(name);
  if (value == nullptr || !value->is_object()) refuse(name, "use a JSON object");
  return {*value, fmt::format("{}: {}", place_, name)};
}

}  // namespace purekv
