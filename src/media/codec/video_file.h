#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

#include <cstdint>
#include <memory>
#include <string>

#include "media/input_file.h"
#include "media/orientation.h"

namespace purekv {

struct AvDeleter {
  void operator()(AVIOContext* x) const;
  void operator()(AVFormatContext* x) const { avformat_close_input(&x); }
  void operator()(AVCodecContext* x) const { avcodec_free_context(&x); }
  void operator()(AVFrame* x) const { av_frame_free(&x); }
  void operator()(AVPacket* x) const { av_packet_free(&x); }
};
template <class T>
using AvPointer = std::unique_ptr<T, AvDeleter>;

/// What a pass over a video is for.
enum class Pass {
  kCount,   ///< frames are only counted: pixels may lack the in-loop filter, which is faster
  kPixels,  ///< frames are looked at
};

/// One pass over the best video stream of a file, through libav: frames in display order. Reads only this file, only
/// mp4/mov, mkv/webm and avi, only with the codecs of the contract. Throws Error(kInput).
class VideoFile {
 public:
  /// `file` must outlive this object.
  VideoFile(const InputFile& file, Pass pass);

  [[nodiscard]] double rate() const;  ///< libav's avg_frame_rate; 0 where it has none
  [[nodiscard]] Orientation orientation() const { return orientation_; }
  /// Decodes the next frame; false after the last one. Damage of any kind throws: what a decoder conceals is no frame.
  bool next();
  [[nodiscard]] const AVFrame& frame() const { return *frame_; }

 private:
  struct Cursor {
    const InputFile* file;
    std::int64_t at;
  };
  static int read_bytes(void* cursor, std::uint8_t* out, int bytes);
  static std::int64_t seek_to(void* cursor, std::int64_t offset, int whence);
  void open_container();
  void choose_stream();
  void check_index() const;
  void open_decoder(Pass pass);
  bool feed();
  void check_frame() const;
  [[noreturn]] void refuse(int error, const char* what) const;

  Cursor cursor_;
  std::string path_;
  AvPointer<AVIOContext> io_;
  AvPointer<AVFormatContext> container_;
  AvPointer<AVCodecContext> decoder_;
  AvPointer<AVPacket> packet_;
  AvPointer<AVFrame> frame_;
  AVStream* stream_ = nullptr;
  Orientation orientation_;
  std::int64_t frames_ = 0;
  bool flushed_ = false;
};

}  // namespace purekv
