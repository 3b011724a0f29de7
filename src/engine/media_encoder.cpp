#include "engine/media_encoder.h"

#include <algorithm>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/transfer.h"
#include "engine/prompt.h"
#include "kernels/patchify.h"
#include "model/pixel_lookup.h"

namespace purekv {

MediaEncoder::MediaEncoder(const LoadedModel& model, const Progress& progress)
    : model_(model),
      progress_(progress),
      tower_(model.context, model.config.vision, model.vision),
      lookup_(to_device(model.context, make_pixel_lookup(model.config.preprocess))) {}

void MediaEncoder::read_frames(ClipSource& source, std::int64_t step, Frames& frames) {
  for (std::size_t f = 0; f < frames.size(); ++f) {
    // An image is one frame that the tower sees `temporal_patch` times.
    if (source.info().kind == MediaKind::kImage && f > 0)
      frames[f] = frames[0];
    else if (!source.next(frames[f]))
      fail(ErrorKind::kInput, "{} ended after {} of {} sampled frames; the file may be truncated", source.info().path,
           step * static_cast<std::int64_t>(frames.size()) + static_cast<std::int64_t>(f),
           source.info().frame_indices.size());
    const auto bytes =
        static_cast<std::size_t>(source.info().height) * static_cast<std::size_t>(source.info().width) * 3;
    if (frames[f].size() != bytes)
      fail(ErrorKind::kInput,
           "{}: frame {} has {} bytes, {} x {} pixels take {}; the source must keep to its own sizes",
           source.info().path, step * static_cast<std::int64_t>(frames.size()) + static_cast<std::int64_t>(f),
           frames[f].size(), source.info().height, source.info().width, bytes);
  }
}

void MediaEncoder::check_stop() const {
  if (progress_.stop != nullptr && progress_.stop->load(std::memory_order_relaxed))
    fail(ErrorKind::kInterrupted, "interrupted during vision");
}

/// One slice's frames, decoded.
void MediaEncoder::read_slice(ClipSource& source, std::int64_t step, std::uint8_t* to) {
  check_stop();
  const auto begin = Clock::now();
  read_frames(source, step, frames_);
  for (const auto& frame : frames_) to = std::copy(frame.begin(), frame.end(), to);
  media_ms_ += ms_since(begin);
}

void MediaEncoder::encode(ClipSource& source, const MatrixView& out, NpyWriter* pixels) {
  const ClipInfo& clip = source.info();
  const VisionConfig& vision = model_.config.vision;
  const std::int64_t cells = static_cast<std::int64_t>(clip.grid_h / vision.merge) * (clip.grid_w / vision.merge);
  const std::int64_t rows = static_cast<std::int64_t>(clip.grid_h) * clip.grid_w;
  const std::int64_t width = vision.patch_values();
  const std::int64_t slice_bytes = rows * width;  // a byte a value
  const std::int64_t most = slices_at_once(model_.context, rows, clip.grid_t);
  tower_.prepare(clip.grid_h, clip.grid_w, most);  // first: a clip before may have left more than this one needs
  const Buffer frames(model_.context, most * slice_bytes);
  const Matrix patches(model_.context, DType::kF32, most * rows, width);
  staging_.resize(static_cast<std::size_t>(most * slice_bytes));
  frames_.resize(static_cast<std::size_t>(vision.temporal_patch));
  for (std::int64_t t = 0; t < clip.grid_t; t += most) {
    const std::int64_t count = std::min(most, clip.grid_t - t);
    for (std::int64_t i = 0; i < count; ++i) read_slice(source, t + i, staging_.data() + i * slice_bytes);
    upload(model_.context, frames.data(), staging_.data(), count * slice_bytes);
    Timer& timer = timers_.emplace_back(model_.context);
    timer.start();
    const MatrixView part = patches.slice(0, count * rows);
    patchify(model_.context, {.frames = frames.as<std::uint8_t>(),
                              .temporal = vision.temporal_patch,
                              .height = clip.height,
                              .width = clip.width,
                              .patch = vision.patch,
                              .merge = vision.merge,
                              .lookup = lookup_.as<float>(),
                              .out = part});
    tower_.encode(clip.grid_h, clip.grid_w, count, part, out.slice(t * cells, count * cells));
    timer.stop();
    if (pixels != nullptr) write_pixels(part, *pixels);
    if (progress_.step) progress_.step("vision", t + count, clip.grid_t);
  }
  synchronize(model_.context);
  for (const Timer& timer : timers_) vision_ms_ += timer.ms();
  timers_.clear();
}

void MediaEncoder::write_pixels(const MatrixView& patches, NpyWriter& pixels) const {
  const std::int64_t count = patches.rows * patches.cols;
  const auto values = to_host<float>(model_.context, patches.data, count);
  pixels.write(values.data(), count * static_cast<std::int64_t>(sizeof(float)));
}

std::shared_ptr<const EncodedMedia> encode_media(const LoadedModel& model,
                                                 const std::vector<std::unique_ptr<ClipSource>>& media,
                                                 const Progress& progress) {
  if (!media.empty() && !model.config.has_vision)
    fail(ErrorKind::kInput, "{} media given, but the model has no vision tower; ask without media", media.size());
  auto encoded = std::make_shared<EncodedMedia>();
  std::int64_t rows = 0;
  for (const auto& source : media) {
    encoded->media.push_back(source->info());
    rows += visual_rows(source->info(), model.config.vision);
  }
  encoded->rows = Matrix(model.context, model.context.activation(), rows, model.config.text.hidden);
  if (media.empty()) return encoded;
  MediaEncoder encoder(model, progress);
  std::int64_t first = 0;
  for (const auto& source : media) {
    const std::int64_t count = visual_rows(source->info(), model.config.vision);
    encoder.encode(*source, encoded->rows.slice(first, count), nullptr);
    first += count;
  }
  encoded->media_ms = encoder.media_ms();
  encoded->vision_ms = encoder.vision_ms();
  return encoded;
}

}  // namespace purekv
