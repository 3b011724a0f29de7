#include "engine/trace.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/fail.h"

namespace purekv {

NpyWriter::NpyWriter(const std::string& path, std::string_view dtype, const std::vector<std::int64_t>& shape)
    : path_(path), file_(path, std::ios::binary | std::ios::trunc) {
  // A tuple of one needs its comma.
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", dtype,
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  constexpr std::size_t kPreamble = 10;
  constexpr std::size_t kAlign = 64;
  header.append(kAlign - (kPreamble + header.size() + 1) % kAlign, ' ');
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());
  const char magic[kPreamble] = {
      '\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(length & 0xFFU), static_cast<char>(length >> 8U)};
  write(magic, kPreamble);
  write(header.data(), static_cast<std::int64_t>(header.size()));
}

void NpyWriter::write(const void* data, std::int64_t bytes) {
  file_.write(static_cast<const char*>(data), bytes);
  if (!file_) fail(ErrorKind::kResource, "cannot write {}; check the folder and the space left on its disk", path_);
}

void NpyWriter::finish() {
  file_.close();
  if (file_.fail())
    fail(ErrorKind::kResource, "cannot write {}; check the folder and the space left on its disk", path_);
}

namespace {

/// Whether a trace writes a file of that name: "<name>.npy", or "<name>_LL.npy" of a layer.
bool is_trace_file(std::string_view file) {
  constexpr std::array<std::string_view, 7> kWhole = {"prompt_ids", "position_ids", "pixel_values", "grid_thw",
                                                      "vision",     "logits",       "output_ids"};
  constexpr std::array<std::string_view, 8> kLayers = {"hidden", "window", "vnorm", "local",
                                                       "self",   "nov",    "score", "keep"};
  constexpr std::string_view kEnding = ".npy";
  if (file == "segments.json") return true;
  if (!file.ends_with(kEnding)) return false;
  file.remove_suffix(kEnding.size());
  if (std::find(kWhole.begin(), kWhole.end(), file) != kWhole.end()) return true;
  const std::size_t at = file.rfind('_');
  if (at == std::string_view::npos || file.size() < at + 3) return false;
  const std::string_view layer = file.substr(at + 1);
  return layer.find_first_not_of("0123456789") == std::string_view::npos &&
         std::find(kLayers.begin(), kLayers.end(), file.substr(0, at)) != kLayers.end();
}

/// An earlier run's files would read as this one's: which score files there are depends on the method.
void remove_trace_files(const std::string& directory) {
  std::vector<std::filesystem::path> old;
  std::error_code error;
  for (std::filesystem::directory_iterator file(directory, error), end; !error && file != end; file.increment(error))
    if (is_trace_file(file->path().filename().string())) old.push_back(file->path());
  for (const auto& path : old) {
    std::filesystem::remove(path, error);
    if (error)
      fail(ErrorKind::kResource, "cannot replace {}: {}; give another trace folder", path.string(), error.message());
  }
}

}  // namespace

Trace::Trace(std::string directory) : directory_(std::move(directory)) {
  if (!on()) return;
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error || !std::filesystem::is_directory(directory_))
    fail(ErrorKind::kResource, "cannot make the trace folder {}: {}; give a folder that can be written", directory_,
         error ? error.message() : "a file is in the way");
  remove_trace_files(directory_);
}

std::string Trace::path(std::string_view name) const { return fmt::format("{}/{}.npy", directory_, name); }

void Trace::floats(std::string_view name, const float* data, const std::vector<std::int64_t>& shape) const {
  if (!on()) return;
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  NpyWriter file(path(name), "<f4", shape);
  file.write(data, count * static_cast<std::int64_t>(sizeof(float)));
  file.finish();
}

void Trace::layer_floats(std::string_view name, std::int64_t layer, const float* data,
                         const std::vector<std::int64_t>& shape) const {
  if (on()) floats(fmt::format("{}_{:02}", name, layer), data, shape);
}

void Trace::ids(std::string_view name, std::span<const std::int32_t> data,
                const std::vector<std::int64_t>& shape) const {
  if (!on()) return;
  NpyWriter file(path(name), "<i4", shape);
  file.write(data.data(), static_cast<std::int64_t>(data.size_bytes()));
  file.finish();
}

void Trace::keep(std::int64_t layer, const std::vector<std::vector<std::int32_t>>& keep) const {
  if (!on()) return;
  std::size_t longest = 0;
  for (const auto& slots : keep) longest = std::max(longest, slots.size());
  std::vector<std::int32_t> rows;
  for (const auto& slots : keep) {
    rows.insert(rows.end(), slots.begin(), slots.end());
    rows.insert(rows.end(), longest - slots.size(), -1);
  }
  ids(fmt::format("keep_{:02}", layer), rows,
      {static_cast<std::int64_t>(keep.size()), static_cast<std::int64_t>(longest)});
}

void Trace::prompt(const Prompt& prompt, const VisionConfig& vision, std::span<const ClipInfo> media) const {
  if (!on()) return;
  const auto rows = static_cast<std::int64_t>(prompt.ids.size());
  ids("prompt_ids", prompt.ids, {rows});
  std::vector<std::int32_t> axes;
  for (const auto& axis : prompt.positions.axis) axes.insert(axes.end(), axis.begin(), axis.end());
  ids("position_ids", axes, {3, rows});
  nlohmann::ordered_json segments = {{"prefix", prompt.table.prefix},
                                     {"video", nlohmann::ordered_json::array()},
                                     {"question_start", prompt.table.question_start}};
  std::vector<std::int32_t> grids;
  for (std::size_t i = 0; i < media.size(); ++i) {
    const ClipInfo& clip = media[i];
    const std::int64_t h = clip.grid_h / vision.merge;
    const std::int64_t w = clip.grid_w / vision.merge;
    segments["video"].push_back({{"start", prompt.media_start[i]},
                                 {"frames", clip.grid_t},
                                 {"tokens_per_frame", h * w},
                                 {"grid_h", h},
                                 {"grid_w", w},
                                 {"clip", i}});
    grids.insert(grids.end(), {clip.grid_t, clip.grid_h, clip.grid_w});
  }
  ids("grid_thw", grids, {static_cast<std::int64_t>(media.size()), 3});
  const std::string file = directory_ + "/segments.json";
  std::ofstream out(file, std::ios::trunc);
  out << segments.dump(1) << '\n';
  out.close();
  if (out.fail()) fail(ErrorKind::kResource, "cannot write {}; check the space left on its disk", file);
}

}  // namespace purekv
