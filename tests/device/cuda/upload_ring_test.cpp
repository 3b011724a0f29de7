#include "device/cuda/upload_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "device/replay.h"
#include "device/transfer.h"
#include "purekv/error.h"
#include "support/cuda.h"

namespace purekv::cuda {
namespace {

constexpr std::int64_t kRingBytes = UploadRing::kSections * UploadRing::kSectionBytes;

/// Keeps the stream from running on: until `open`, or two seconds so that a failure does not hang.
struct Gate {
  std::atomic<bool> open{false};
  std::chrono::milliseconds most{2000};
};

void CUDART_CB wait_at(void* data) {
  const auto* gate = static_cast<const Gate*>(data);
  const auto end = std::chrono::steady_clock::now() + gate->most;
  while (!gate->open.load() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

class CudaUploadRing : public CudaTest {
 protected:
  void stop_stream(Gate& gate) const {
    cuda_check(cudaLaunchHostFunc(stream_of(context_), wait_at, &gate), "queueing a wait");
  }
  std::vector<std::uint8_t> random_bytes(std::int64_t count) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random_());
    return bytes;
  }
  std::mt19937 random_{7};
};

TEST_F(CudaUploadRing, EverySizeArrives) {
  constexpr std::int64_t kInline = UploadRing::kInlineBytes;
  constexpr std::int64_t kSection = UploadRing::kSectionBytes;
  constexpr std::int64_t kMost = UploadRing::kMostBytes;
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{1}, kInline - 1, kInline, kInline + 1, kSection - 1,
                                   kSection, kSection + 1, kMost - 1, kMost, kMost + 1}) {
    const std::vector<std::uint8_t> sent = random_bytes(bytes);
    const Buffer buffer = poisoned(context_, bytes + 1);
    upload(context_, buffer.data(), sent.data(), bytes);
    std::vector<std::uint8_t> got = to_host<std::uint8_t>(context_, buffer.data(), bytes + 1);
    EXPECT_EQ(got.back(), 0xFF) << bytes;
    got.pop_back();
    EXPECT_EQ(got, sent) << bytes;
  }
}

/// The stream stands still while three rings of uploads are asked for: none may overwrite bytes still to be copied.
TEST_F(CudaUploadRing, BytesStayUntilTheyAreCopied) {
  const std::vector<std::uint8_t> all = random_bytes(3 * kRingBytes);
  const Buffer buffer = poisoned(context_, 3 * kRingBytes);
  Gate gate{.most = std::chrono::milliseconds(50)};
  stop_stream(gate);
  std::vector<std::uint8_t> reused;
  std::uniform_int_distribution<std::int64_t> size(UploadRing::kInlineBytes + 1, 200000);
  for (std::int64_t at = 0; at < 3 * kRingBytes;) {
    const std::int64_t bytes = std::min(size(random_), 3 * kRingBytes - at);
    reused.assign(all.begin() + at, all.begin() + at + bytes);
    upload(context_, buffer.as<std::uint8_t>() + at, reused.data(), bytes);
    at += bytes;
  }
  EXPECT_EQ(to_host<std::uint8_t>(context_, buffer.data(), 3 * kRingBytes), all);
}

TEST_F(CudaUploadRing, SmallUploadsDoNotWait) {
  constexpr std::int64_t kMost = UploadRing::kInlineBytes + 1;
  const Buffer buffer = poisoned(context_, kMost);
  std::vector<std::uint8_t> sent;
  Gate gate;
  stop_stream(gate);
  for (int n = 0; n < 20; ++n)
    for (const std::int64_t bytes : {std::int64_t{4}, std::int64_t{5000}, kMost}) {
      sent = random_bytes(bytes);
      upload(context_, buffer.data(), sent.data(), bytes);
    }
  EXPECT_EQ(cudaStreamQuery(stream_of(context_)), cudaErrorNotReady);
  gate.open = true;
  EXPECT_EQ(to_host<std::uint8_t>(context_, buffer.data(), kMost), sent);
}

TEST_F(CudaUploadRing, ACaptureTakesNone) {
  const Buffer buffer = poisoned(context_, 4);
  const std::int32_t value = 1;
  Replay replay;
  EXPECT_THROW(replay.run(context_, [&] { upload(context_, buffer.data(), &value, sizeof value); }), Error);
  upload(context_, buffer.data(), &value, sizeof value);  // the stream is usable again
  EXPECT_EQ(to_host<std::int32_t>(context_, buffer.data(), 1), std::vector<std::int32_t>{1});
}

}  // namespace
}  // namespace purekv::cuda
