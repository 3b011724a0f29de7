#include "media/npy_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "purekv/error.h"
#include "purekv/media.h"

namespace purekv {
namespace {

/// A file that is gone at the end of the test.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& bytes)
      : path_(std::filesystem::temp_directory_path() / ("purekv-npy-" + std::to_string(::getpid()) + ".npy")) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { std::filesystem::remove(path_); }
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::string npy_bytes(const std::string& header, const std::string& data, char version = 1) {
  std::string bytes = std::string("\x93NUMPY") + version + '\0';
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  for (std::size_t i = 0; i < length_bytes; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xFFU);
  return bytes + header + data;
}

std::string header_of(const std::string& shape, const std::string& order = "False", const std::string& type = "|u1") {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }      \n";
}

/// Element [t, y, x, c] of the clips below.
char value_at(int t, int y, int x, int c) { return static_cast<char>(t * 89 + y * 31 + x * 7 + c * 3); }

constexpr int kFrames = 5, kHeight = 3, kWidth = 4;

std::string clip_data(bool fortran) {
  std::string data(static_cast<std::size_t>(kFrames * kHeight * kWidth * 3), '\0');
  for (int t = 0; t < kFrames; ++t)
    for (int y = 0; y < kHeight; ++y)
      for (int x = 0; x < kWidth; ++x)
        for (int c = 0; c < 3; ++c) {
          const int at =
              fortran ? t + kFrames * (y + kHeight * (x + kWidth * c)) : ((t * kHeight + y) * kWidth + x) * 3 + c;
          data[static_cast<std::size_t>(at)] = value_at(t, y, x, c);
        }
  return data;
}

void expect_frames(const std::string& bytes) {
  const ScratchFile file(bytes);
  NpyFrames frames{InputFile(file.path())};
  ASSERT_EQ(frames.frames(), kFrames);
  ASSERT_EQ(frames.size(), (FrameSize{kHeight, kWidth}));
  std::vector<std::uint8_t> rgb;
  for (const int t : {0, 1, 2, 3, 4, 0, 4}) {
    frames.read(t, rgb);
    ASSERT_EQ(rgb.size(), static_cast<std::size_t>(kHeight * kWidth * 3));
    for (int i = 0; i < kHeight * kWidth * 3; ++i)
      ASSERT_EQ(rgb[static_cast<std::size_t>(i)],
                static_cast<std::uint8_t>(value_at(t, i / 3 / kWidth, i / 3 % kWidth, i % 3)));
  }
}

TEST(NpyFile, ReadsEveryVersionAndBothOrders) {
  for (const char version : {'\1', '\2', '\3'}) {
    expect_frames(npy_bytes(header_of("(5, 3, 4, 3)"), clip_data(false), version));
    expect_frames(npy_bytes(header_of("(5, 3, 4, 3)", "True"), clip_data(true), version));
  }
  for (const char* type : {"u1", "<u1", ">u1", "=u1"})
    expect_frames(npy_bytes(header_of("(5, 3, 4, 3)", "False", type), clip_data(false)));
  expect_frames(npy_bytes("{'shape':(5L,3L,4L,3L),\"fortran_order\":False,'descr':\"|u1\"}", clip_data(false)));
  expect_frames(npy_bytes(header_of("(5, 3, 4, 3)"), clip_data(false) + "trailing"));
}

/// Blocks of one frame, of two and of all: the last one is short, and a frame before the block is read again.
TEST(NpyFile, ReadsFortranOrderBlockByBlock) {
  const ScratchFile file(npy_bytes(header_of("(5, 3, 4, 3)", "True"), clip_data(true)));
  constexpr int kFrameBytes = kHeight * kWidth * 3;
  for (const int block : {1, kFrameBytes, 2 * kFrameBytes, 3 * kFrameBytes + 1, 9 * kFrameBytes}) {
    NpyFrames frames(InputFile(file.path()), block);
    std::vector<std::uint8_t> rgb;
    for (const int t : {0, 1, 2, 3, 4, 1, 0}) {
      frames.read(t, rgb);
      for (int i = 0; i < kFrameBytes; ++i)
        ASSERT_EQ(rgb[static_cast<std::size_t>(i)],
                  static_cast<std::uint8_t>(value_at(t, i / 3 / kWidth, i / 3 % kWidth, i % 3)))
            << block;
    }
  }
}

std::string error_of(const std::string& bytes) {
  const ScratchFile file(bytes);
  try {
    open_media(file.path(), {}, {});
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_NE(std::string(error.what()).find(file.path()), std::string::npos) << error.what();
    return error.what();
  }
  return "";
}

TEST(NpyFile, RefusesHeadersThatCannotBe) {
  const std::string data = clip_data(false);
  for (const std::string& header : {
           std::string(),
           std::string("{"),
           std::string("}"),
           std::string("{}"),
           std::string("()"),
           std::string("{'descr': '|u1'}"),
           std::string("{'descr': '|u1, }"),
           header_of("(5, 3, 4)"),
           header_of("(5, 3, 4, 3, 1)"),
           header_of("(5, 3, 4, 4)"),
           header_of("(0, 3, 4, 3)"),
           header_of("(5, 0, 4, 3)"),
           header_of("(-5, 3, 4, 3)"),
           header_of("(5, 3, 4, 3"),
           header_of("5"),
           header_of("()"),
           header_of("(5.0, 3, 4, 3)"),
           header_of("(99999999999999999999, 3, 4, 3)"),
           header_of("(9223372036854775807, 3, 4, 3)"),
           header_of("(5, 4294967296, 4294967296, 3)"),
           header_of("(5, 3, 4, 3)", "Maybe"),
           header_of("(5, 3, 4, 3)", "False", "<f4"),
           header_of("(5, 3, 4, 3)", "False", "|i1"),
           header_of("(5, 3, 4, 3)", "False", "|u11"),
           header_of("(5, 3, 4, 3)") + "x",
           header_of("(5, 3, 4, 3)") + header_of("(5, 3, 4, 3)"),
           std::string("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (5, 3, 4, 3)}"),
           std::string("{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (5, 3, 4, 3)}"),
           std::string("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 3, 4, 3), 'more': 1}"),
       })
    EXPECT_NE(error_of(npy_bytes(header, data)), "") << header;
  EXPECT_NE(error_of(npy_bytes(header_of("(5, 3, 4, 3)"), data, 4)), "");
  EXPECT_NE(error_of(npy_bytes(header_of("(5, 3, 4, 3)"), data, 0)), "");
}

TEST(NpyFile, RefusesEveryCut) {
  const std::string whole = npy_bytes(header_of("(5, 3, 4, 3)"), clip_data(false));
  ASSERT_EQ(error_of(whole), "");
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) ASSERT_NE(error_of(whole.substr(0, bytes)), "") << bytes;
}

TEST(NpyFile, RefusesALongHeaderBeforeItIsRead) {
  const std::string bytes = std::string("\x93NUMPY\x02\0", 8) + "\xFF\xFF\xFF\x7F" + std::string(100, ' ');
  EXPECT_NE(error_of(bytes).find("2147483647"), std::string::npos);
}

TEST(NpyFile, PadsAnOddClip) {
  const ScratchFile file(npy_bytes(header_of("(5, 3, 4, 3)"), clip_data(false)));
  const auto clip = open_media(file.path(), {}, {});
  EXPECT_EQ(clip->info().frame_indices, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 4}));
  EXPECT_EQ(clip->info().kind, MediaKind::kFrames);
  EXPECT_EQ(clip->info().grid_t, 3);
  std::vector<std::vector<std::uint8_t>> frames(7);
  for (std::size_t i = 0; i < 6; ++i) ASSERT_TRUE(clip->next(frames[i]));
  EXPECT_FALSE(clip->next(frames[6]));
  EXPECT_EQ(frames[4], frames[5]);
  EXPECT_NE(frames[3], frames[4]);
}

}  // namespace
}  // namespace purekv
