#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "device/buffer.h"
#include "device/timer.h"
#include "engine/state.h"
#include "engine/trace.h"
#include "model/vision_tower.h"
#include "purekv/engine.h"

namespace purekv {

/// Media as the language model reads them: every visual row in prompt order.
struct EncodedMedia {
  std::vector<ClipInfo> media;
  Matrix rows;                         ///< [visual rows of all media, hidden] context.activation()
  double media_ms = 0, vision_ms = 0;  ///< as MediaEncoder counts them
};

/// Decodes media and runs the tower over them, as many token-frames at a time as fill the device: while a GPU works on
/// some, the next are decoded.
class MediaEncoder {
 public:
  MediaEncoder(const LoadedModel& model, const Progress& progress);

  /// Writes the rows of one medium to out [grid cells, hidden]; with `pixels`, the tower's input too.
  /// Throws Error(kInput) where the source ends early, Error(kInterrupted) where the caller asks for it.
  void encode(ClipSource& source, const MatrixView& out, NpyWriter* pixels);

  /// Until frames are decoded and resized (host), and the tower's time on its device. On a GPU the two overlap.
  [[nodiscard]] double media_ms() const { return media_ms_; }
  [[nodiscard]] double vision_ms() const { return vision_ms_; }

 private:
  using Frames = std::vector<std::vector<std::uint8_t>>;  ///< [temporal_patch] uint8 RGB
  static void read_frames(ClipSource& source, std::int64_t step, Frames& frames);
  void read_slice(ClipSource& source, std::int64_t step, std::uint8_t* to);
  void write_pixels(const MatrixView& patches, NpyWriter& pixels) const;
  void check_stop() const;

  const LoadedModel& model_;
  const Progress& progress_;
  VisionTower tower_;
  Frames frames_;
  Buffer lookup_;                      ///< [3, 256] float32: normalised bytes
  std::vector<std::uint8_t> staging_;  ///< frames of some slices on their way to the device
  std::deque<Timer> timers_;           ///< of the tower, one a part of a clip
  double media_ms_ = 0, vision_ms_ = 0;
};

/// All of `media` in order, to be asked about more than once.
std::shared_ptr<const EncodedMedia> encode_media(const LoadedModel& model,
                                                 const std::vector<std::unique_ptr<ClipSource>>& media,
                                                 const Progress& progress);

}  // namespace purekv
