#include "model/checkpoint.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "base/fail.h"
#include "model/json_fields.h"
#include "model/safetensors.h"

namespace purekv {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxIndexBytes = 100'000'000;
constexpr std::size_t kMaxShards = 10'000;

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

/// One name for the layouts that are around (docs/model.md).
std::string canonical(const std::string& name) {
  static constexpr std::array<std::array<std::string_view, 2>, 4> kPrefixes = {{
      {"model.visual.", "visual."},
      {"model.language_model.", "model."},
      {"language_model.model.", "model."},
      {"language_model.lm_head.", "lm_head."},
  }};
  for (const auto& [from, to] : kPrefixes)
    if (name.starts_with(from)) return std::string(to) + name.substr(from.size());
  return name;
}

/// Tensor name to shard file name, as model.safetensors.index.json has it.
using WeightMap = std::map<std::string, std::string>;

WeightMap read_index(const std::string& path) {
  const std::string place = printable(path, 1000);
  const json root = parse_json_object(read_small_file(path, kMaxIndexBytes), place, {.depth = 8, .values = 4'000'000});
  const auto entries = root.find("weight_map");
  if (entries == root.end() || !entries->is_object() || entries->empty())
    fail(ErrorKind::kInput, "{}: weight_map is missing or empty: copy the file again", place);
  WeightMap map;
  for (const auto& [name, value] : entries->items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : std::string();
    // A plain name only: a link in the folder may lead out (the Hub's cache does so), a path may not.
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos)
      fail(ErrorKind::kInput, "{}: tensor '{}' lies in '{}': name a file of the same directory", place, printable(name),
           printable(value.is_string() ? shard : value.type_name()));
    map.emplace(name, shard);
  }
  return map;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

struct Checkpoint::State {
  struct Tensor {
    TensorView view;
    std::size_t file;
  };
  std::string directory;
  std::vector<SafetensorsFile> files;
  std::unordered_map<std::string, Tensor> tensors;
  std::int64_t bytes = 0;

  [[nodiscard]] const std::string& place(const Tensor& tensor) const { return files[tensor.file].place(); }

  /// `map` is null for a file that stands alone.
  void add(const std::string& name, const WeightMap* map) {
    files.push_back(SafetensorsFile::open(directory + "/" + name));
    const SafetensorsFile& file = files.back();
    for (const SafetensorsFile::Entry& entry : file.entries()) {
      if (map != nullptr) check_indexed(entry.name, name, *map);
      const auto [it, added] =
          tensors.emplace(canonical(entry.name), Tensor{{entry.data, entry.dtype, entry.shape}, files.size() - 1});
      if (!added)
        fail(ErrorKind::kInput, "{}: tensor '{}' is already in {} under this or an equal name: keep one of them",
             file.place(), printable(entry.name), place(it->second));
      bytes += entry.bytes;
    }
  }

  void check_indexed(const std::string& tensor, const std::string& shard, const WeightMap& map) const {
    const auto it = map.find(tensor);
    if (it == map.end() || it->second != shard)
      fail(ErrorKind::kInput, "{}: tensor '{}': the index {}: use the index that belongs to the shards",
           files.back().place(), printable(tensor),
           it == map.end() ? "does not list it" : "puts it into " + printable(it->second));
  }

  void add_shards(const std::string& index_path) {
    const WeightMap map = read_index(index_path);
    std::map<std::string, std::size_t> listed;
    for (const auto& [name, shard] : map) ++listed[shard];
    if (listed.size() > kMaxShards)
      fail(ErrorKind::kInput, "{}: {} shards, at most {} are read: the file is damaged", printable(index_path, 1000),
           listed.size(), kMaxShards);
    for (const auto& [shard, count] : listed) {
      add(shard, &map);
      if (files.back().entries().size() == count) continue;
      for (const auto& [name, home] : map)
        if (home == shard && !tensors.contains(canonical(name)))
          fail(ErrorKind::kInput, "{}: tensor '{}' of the index is not in it: copy the shard again",
               files.back().place(), printable(name));
    }
  }
};

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const std::string& model_dir) {
  auto state = std::make_unique<State>();
  state->directory = model_dir;
  const std::string single = model_dir + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (exists(single))
    state->add("model.safetensors", nullptr);
  else if (exists(index))
    state->add_shards(index);
  else
    fail(ErrorKind::kInput, "{}: holds neither model.safetensors nor its index: give the directory of a checkpoint",
         printable(model_dir, 1000));
  return Checkpoint(std::move(state));
}

bool Checkpoint::has(std::string_view name) const { return state_->tensors.contains(std::string(name)); }

const TensorView& Checkpoint::tensor(std::string_view name, const std::vector<std::int64_t>& shape) const {
  const auto it = state_->tensors.find(std::string(name));
  if (it == state_->tensors.end())
    fail(ErrorKind::kInput, "{}: tensor '{}' is missing: config.json and the weights must belong together",
         printable(state_->directory, 1000), name);
  if (it->second.view.shape != shape)
    fail(ErrorKind::kInput, "{}: tensor '{}' is {}, config.json asks for {}: they must belong together",
         state_->place(it->second), name, shape_text(it->second.view.shape), shape_text(shape));
  return it->second.view;
}

std::int64_t Checkpoint::bytes() const { return state_->bytes; }

}  // namespace purekv
