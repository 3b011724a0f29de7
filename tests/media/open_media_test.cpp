#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "media/file_kind.h"
#include "purekv/error.h"
#include "purekv/media.h"

namespace purekv {
namespace {

namespace fs = std::filesystem;

class OpenMedia : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("purekv-open-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  static void expect_refused(const std::string& path) {
    try {
      open_media(path, {}, {});
      ADD_FAILURE() << path << " was opened";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }

  fs::path folder_;
};

TEST_F(OpenMedia, RefusesWhatIsNoFile) {
  expect_refused((folder_ / "missing.mp4").string());
  expect_refused("http://localhost/clip.mp4");
  expect_refused("/dev/zero");
  expect_refused(folder_.string());
  const std::string fifo = (folder_ / "fifo.mp4").string();
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo);
  EXPECT_THROW(open_media("", {}, {}), Error);
}

TEST_F(OpenMedia, RefusesWhatIsNoMedium) {
  expect_refused(write("empty.mp4", ""));
  expect_refused(write("text.mp4", "this is a text"));
  expect_refused(write("list.mp4", "#EXTM3U\nclip.mp4\n"));
  expect_refused(write("concat.mp4", "ffconcat version 1.0\nfile clip.mp4\n"));
  expect_refused(write("short.png", "\x89PNG\r\n\x1A\n"));
  expect_refused(write("short.jpg", "\xFF\xD8\xFF"));
  expect_refused(write("bare.mp4", std::string("\0\0\0\x10", 4) + "ftypisom" + std::string(4, '\0')));
  expect_refused(write("bare.mkv", "\x1A\x45\xDF\xA3"));
  expect_refused(write("bare.avi", std::string("RIFF\0\0\0\0AVI ", 12)));
  expect_refused(write("bare.webp", std::string("RIFF\0\0\0\0WEBP", 12)));
  expect_refused(write("a.gif", "GIF89a"));
}

TEST(FileKind, GoesByContentAlone) {
  const auto kind_of = [](const std::string& text) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
    return file_kind({bytes, text.size()});
  };
  EXPECT_EQ(kind_of(std::string("\0\0\0\x18", 4) + "ftypmp42"), FileKind::kMov);
  EXPECT_EQ(kind_of("RIFF....AVI LIST"), FileKind::kAvi);
  EXPECT_EQ(kind_of("RIFF....WEBPVP8 "), FileKind::kWebp);
  EXPECT_EQ(kind_of("RIFF....WAVEfmt "), FileKind::kUnknown);
  EXPECT_EQ(kind_of("BMX is a kind of bicycle"), FileKind::kUnknown);
  EXPECT_EQ(kind_of(std::string("BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", 18)), FileKind::kBmp);
  EXPECT_EQ(kind_of(""), FileKind::kUnknown);
}

}  // namespace
}  // namespace purekv
