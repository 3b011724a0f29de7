#include "engine/media_encoder.h"

#include <algorithm>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/transfer.h"
#include "engine/prompt.h"
#include "model/patchify.h"

namespace purekv {

MediaEncoder::MediaEncoder(const LoadedModel& model, const Progress& progress)
    : model_(model), progress_(progress), tower_(model.context, model.config.vision, model.vision) {}

void MediaEncoder::read_frames(ClipSource& source, std::int64_t step, Frames& frames) {
  for (std::size_t f = 0; f < frames.size(); ++f) {
    // An image is one frame that the tower sees `temporal_patch` times.
    if (source.info().kind == MediaKind::kImage && f > 0)
      frames[f] = frames[0];
    else if (!source.next(frames[f]))
      fail(ErrorKind::kInput, "{} ended after {} of {} sampled frames; the file may be truncated", source.info().path,
           step * static_cast<std::int64_t>(frames.size()) + static_cast<std::int64_t>(f),
           source.info().frame_indices.size());
  }
}

void MediaEncoder::check_stop() const {
  if (progress_.stop != nullptr && progress_.stop->load(std::memory_order_relaxed))
    fail(ErrorKind::kInterrupted, "interrupted during vision");
}

/// One slice's frames, decoded and cut into host patches.
void MediaEncoder::read_slice(ClipSource& source, std::int64_t step, const MatrixView& patches) {
  check_stop();
  const auto begin = Clock::now();
  read_frames(source, step, frames_);
  std::vector<const std::uint8_t*> pointers;
  pointers.reserve(frames_.size());
  for (const auto& frame : frames_) pointers.push_back(frame.data());
  const ClipInfo& clip = source.info();
  patchify(model_.config.preprocess, {.frames = pointers,
                                      .height = clip.height,
                                      .width = clip.width,
                                      .out = patches,
                                      .threads = model_.context.threads});
  media_ms_ += ms_since(begin);
}

void MediaEncoder::encode(ClipSource& source, const MatrixView& out, NpyWriter* pixels) {
  const ClipInfo& clip = source.info();
  const VisionConfig& vision = model_.config.vision;
  const std::int64_t cells = static_cast<std::int64_t>(clip.grid_h / vision.merge) * (clip.grid_w / vision.merge);
  const std::int64_t rows = static_cast<std::int64_t>(clip.grid_h) * clip.grid_w;
  const std::int64_t width = vision.patch_values();
  const std::int64_t most = slices_at_once(model_.context, rows, clip.grid_t);
  const Matrix patches(model_.context, DType::kF32, most * rows, width);
  staging_.resize(static_cast<std::size_t>(most * rows * width));
  frames_.resize(static_cast<std::size_t>(vision.temporal_patch));
  for (std::int64_t t = 0; t < clip.grid_t; t += most) {
    const std::int64_t count = std::min(most, clip.grid_t - t);
    const MatrixView host{staging_.data(), DType::kF32, count * rows, width, width};
    const std::int64_t bytes = host.rows * width * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t i = 0; i < count; ++i) read_slice(source, t + i, host.slice(i * rows, rows));
    if (pixels != nullptr) pixels->write(host.data, bytes);
    upload(model_.context, patches.view().data, host.data, bytes);
    Timer& timer = timers_.emplace_back(model_.context);
    timer.start();
    tower_.encode(clip.grid_h, clip.grid_w, count, patches.slice(0, host.rows), out.slice(t * cells, count * cells));
    timer.stop();
    if (progress_.step) progress_.step("vision", t + count, clip.grid_t);
  }
  synchronize(model_.context);
  for (const Timer& timer : timers_) vision_ms_ += timer.ms();
  timers_.clear();
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
