#include "media/codec/video_file.h"

extern "C" {
#include <libavutil/display.h>
#include <libavutil/mem.h>
#include <libavutil/opt.h>
}

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <thread>

#include "base/fail.h"
#include "media/clip_plan.h"
#include "media/file_kind.h"

namespace purekv {
namespace {

constexpr int kIoBytes = 1 << 16;
constexpr int kMostStreams = 64;
// A table of a hostile header is taken whole; the largest honest one is a day's index.
constexpr std::size_t kMostAllocation = 256U << 20U;
constexpr const char* kDecoders = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1,mpeg4,mjpeg";
constexpr std::array kCodecs = {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC,  AV_CODEC_ID_VP8,  AV_CODEC_ID_VP9,
                                AV_CODEC_ID_AV1,  AV_CODEC_ID_MPEG4, AV_CODEC_ID_MJPEG};

const AVInputFormat* demuxer_of(FileKind kind) {
  return av_find_input_format(kind == FileKind::kMov ? "mov" : kind == FileKind::kAvi ? "avi" : "matroska");
}

/// Container fields that name other files (playlists, data references, attachments' links) lead nowhere.
int refuse_open(AVFormatContext* /*container*/, AVIOContext** /*io*/, const char* /*url*/, int /*flags*/,
                AVDictionary** /*options*/) {
  return AVERROR(EPERM);
}

/// Frame threads hold a frame each: large pictures get fewer.
int decoder_threads(const AVCodecParameters& parameters) {
  constexpr std::int64_t kPixelsAlive = 32 << 20;
  constexpr std::int64_t kMostThreads = 8;
  const std::int64_t pixels =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(parameters.width) * parameters.height);
  const auto cores = static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  return static_cast<int>(std::clamp<std::int64_t>(kPixelsAlive / pixels, 1, std::min(kMostThreads, cores)));
}

/// Which of the eight right-angled turns a display matrix is. Throws for any other one.
Orientation matrix_orientation(const std::int32_t* matrix, const std::string& path) {
  const double a = matrix[0];
  const double b = matrix[1];
  const double c = matrix[3];
  const double d = matrix[4];
  // (x, y) is shown at (a x + c y, b x + d y); a degree of slack, as the ffmpeg program has.
  constexpr double kSlack = 0.0175;
  const double straight = std::min(std::abs(a), std::abs(d));
  const double crossed = std::min(std::abs(b), std::abs(c));
  if (std::max(std::abs(b), std::abs(c)) <= kSlack * straight) return {false, a < 0, d < 0};
  if (std::max(std::abs(a), std::abs(d)) <= kSlack * crossed) return {true, c < 0, b < 0};
  fail(ErrorKind::kInput, "{}: is rotated by {:.1f} degrees; re-encode it at a multiple of 90", path,
       av_display_rotation_get(matrix));
}

}  // namespace

void AvDeleter::operator()(AVIOContext* x) const {
  av_freep(&x->buffer);  // libav may have put another buffer there
  avio_context_free(&x);
}

VideoFile::VideoFile(const InputFile& file, Pass pass) : cursor_{&file, 0}, path_(file.path()) {
  av_log_set_level(AV_LOG_QUIET);
  av_max_alloc(kMostAllocation);
  open_container();
  choose_stream();
  open_decoder(pass);
}

int VideoFile::read_bytes(void* cursor, std::uint8_t* out, int bytes) {
  auto* self = static_cast<Cursor*>(cursor);
  try {
    const std::size_t got = self->file->read_some(self->at, out, static_cast<std::size_t>(bytes));
    self->at += static_cast<std::int64_t>(got);
    return got == 0 ? AVERROR_EOF : static_cast<int>(got);
  } catch (const Error&) {
    return AVERROR(EIO);  // an exception may not pass through libav
  }
}

std::int64_t VideoFile::seek_to(void* cursor, std::int64_t offset, int whence) {
  auto* self = static_cast<Cursor*>(cursor);
  const std::int64_t size = self->file->size();
  whence &= ~AVSEEK_FORCE;
  if (whence == AVSEEK_SIZE) return size;
  const std::int64_t base = whence == SEEK_CUR ? self->at : whence == SEEK_END ? size : 0;
  std::int64_t target = 0;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return AVERROR(EINVAL);
  self->at = target;
  return target;
}

void VideoFile::refuse(int error, const char* what) const {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(error, text, sizeof text);
  if (error == AVERROR(ENOMEM)) fail(ErrorKind::kInput, "{}: {} takes too much memory; re-encode it", path_, what);
  fail(ErrorKind::kInput, "{}: {}: {}; the file is damaged or cut short, copy or re-encode it", path_, what, text);
}

void VideoFile::open_container() {
  auto* buffer = static_cast<std::uint8_t*>(av_malloc(kIoBytes));
  io_.reset(avio_alloc_context(buffer, kIoBytes, 0, &cursor_, &VideoFile::read_bytes, nullptr, &VideoFile::seek_to));
  AVFormatContext* container = avformat_alloc_context();
  if (!io_ || container == nullptr) throw std::bad_alloc();
  container->pb = io_.get();
  container->io_open = &refuse_open;
  container->max_streams = kMostStreams;
  av_opt_set(container, "codec_whitelist", kDecoders, 0);
  av_opt_set(container, "protocol_whitelist", "none", 0);
  const FileKind kind = file_kind(cursor_.file->head(kHeadBytes));
  // The name is empty: the container reads through `pb` alone. On failure libav frees `container`.
  const int error = avformat_open_input(&container, "", demuxer_of(kind), nullptr);
  if (error < 0) refuse(error, "its header cannot be read");
  container_.reset(container);
}

void VideoFile::choose_stream() {
  if (const int error = avformat_find_stream_info(container_.get(), nullptr); error < 0)
    refuse(error, "its streams cannot be read");
  // A cover picture is a video stream to libav; it must not be the best one.
  for (unsigned i = 0; i < container_->nb_streams; ++i)
    if ((container_->streams[i]->disposition & AV_DISPOSITION_ATTACHED_PIC) != 0)
      container_->streams[i]->codecpar->codec_type = AVMEDIA_TYPE_ATTACHMENT;
  const int best = av_find_best_stream(container_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (best < 0)
    fail(ErrorKind::kInput, "{}: has {} streams, none is video; give a file with a video stream", path_,
         container_->nb_streams);
  for (unsigned i = 0; i < container_->nb_streams; ++i)
    if (static_cast<int>(i) != best) container_->streams[i]->discard = AVDISCARD_ALL;
  stream_ = container_->streams[best];
  const auto* matrix =
      reinterpret_cast<const std::int32_t*>(av_stream_get_side_data(stream_, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
  if (matrix != nullptr) orientation_ = matrix_orientation(matrix, path_);
  check_index();
}

/// Samples that the index places behind the file's end: a moov before a media box that was cut away.
void VideoFile::check_index() const {
  const int entries = container_->iformat == demuxer_of(FileKind::kMov) ? avformat_index_get_entries_count(stream_) : 0;
  for (int i = 0; i < entries; ++i) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream_, i);
    if (entry->pos >= 0 && entry->size <= cursor_.file->size() - entry->pos) continue;
    fail(ErrorKind::kInput, "{}: sample {} of {} ends at byte {}, the file at {}; it is cut short, copy it again",
         path_, i, entries, entry->pos + entry->size, cursor_.file->size());
  }
}

void VideoFile::open_decoder(Pass pass) {
  const AVCodecParameters& parameters = *stream_->codecpar;
  const AVCodec* codec = nullptr;
  if (std::find(kCodecs.begin(), kCodecs.end(), parameters.codec_id) != kCodecs.end())
    codec = avcodec_find_decoder(parameters.codec_id);
  if (codec == nullptr)
    fail(ErrorKind::kInput, "{}: its video is {}; re-encode it as h264, hevc, vp8, vp9, av1, mpeg4 or mjpeg", path_,
         avcodec_get_name(parameters.codec_id));
  if (parameters.width != 0 || parameters.height != 0)
    check_source_size(path_, parameters.height, parameters.width, kMostVideoSide);
  decoder_.reset(avcodec_alloc_context3(codec));
  packet_.reset(av_packet_alloc());
  frame_.reset(av_frame_alloc());
  if (!decoder_ || !packet_ || !frame_) throw std::bad_alloc();
  if (const int error = avcodec_parameters_to_context(decoder_.get(), &parameters); error < 0)
    refuse(error, "its codec parameters cannot be read");
  decoder_->pkt_timebase = stream_->time_base;
  decoder_->max_pixels = kMostPixels;
  decoder_->thread_count = decoder_threads(parameters);
  if (pass == Pass::kCount) decoder_->skip_loop_filter = AVDISCARD_ALL;
  if (const int error = avcodec_open2(decoder_.get(), codec, nullptr); error < 0)
    refuse(error, "its decoder cannot start");
}

double VideoFile::rate() const {
  const AVRational rate = stream_->avg_frame_rate;
  return rate.den == 0 ? 0.0 : av_q2d(rate);
}

bool VideoFile::next() {
  while (true) {
    const int error = avcodec_receive_frame(decoder_.get(), frame_.get());
    if (error == 0) {
      check_frame();
      ++frames_;
      return true;
    }
    if (error == AVERROR_EOF) return false;
    if (error != AVERROR(EAGAIN)) refuse(error, fmt::format("frame {} cannot be decoded", frames_).c_str());
    if (!feed()) return false;
  }
}

/// Gives the decoder one packet, or the end of the stream; false where that was given before.
bool VideoFile::feed() {
  if (flushed_) return false;
  while (true) {
    const int error = av_read_frame(container_.get(), packet_.get());
    if (error == AVERROR_EOF) {
      flushed_ = true;
      avcodec_send_packet(decoder_.get(), nullptr);
      return true;
    }
    if (error < 0) refuse(error, "its data cannot be read");
    // An empty packet would mean the end of the stream; in avi it stands for a frame that was not recorded.
    if (packet_->stream_index == stream_->index && packet_->size > 0) break;
    av_packet_unref(packet_.get());
  }
  const bool cut = (packet_->flags & AV_PKT_FLAG_CORRUPT) != 0;
  const int error = cut ? AVERROR_INVALIDDATA : avcodec_send_packet(decoder_.get(), packet_.get());
  av_packet_unref(packet_.get());
  if (error < 0 && error != AVERROR(EAGAIN))
    refuse(error, fmt::format("data after frame {} cannot be decoded", frames_).c_str());
  return true;
}

void VideoFile::check_frame() const {
  check_source_size(path_, frame_->height, frame_->width, kMostVideoSide);
  if (frame_->decode_error_flags != 0 || (frame_->flags & AV_FRAME_FLAG_CORRUPT) != 0)
    fail(ErrorKind::kInput, "{}: frame {} is damaged; the file is damaged or cut short, copy or re-encode it", path_,
         frames_);
}

}  // namespace purekv
