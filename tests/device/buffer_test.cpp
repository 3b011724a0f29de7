#include "device/buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "device/memory.h"
#include "purekv/error.h"

namespace purekv {
namespace {

TEST(Buffer, CountsWhileItLives) {
  ByteCounter counter;
  {
    Buffer a({}, 100, &counter);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0U);
    Buffer b({}, 50, &counter);
    EXPECT_EQ(counter.live(), 150);
    a = std::move(b);
    EXPECT_EQ(counter.live(), 50);
  }
  EXPECT_EQ(counter.live(), 0);
  EXPECT_EQ(counter.peak(), 150);
}

TEST(Buffer, TooMuchIsAResourceError) {
  for (const std::int64_t bytes : {std::int64_t{-1}, std::int64_t{1} << 60}) {
    try {
      Buffer buffer({}, bytes);
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kResource);
    }
  }
}

TEST(Memory, RequireNamesBothNumbers) {
  EXPECT_GT(available_bytes({}), 0);
  require_bytes({}, 1, "nothing much", "never shown");
  try {
    require_bytes({}, std::int64_t{1} << 60, "this test", "ask for less");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_NE(std::string(error.what()).find("1152921504606846976"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("ask for less"), std::string::npos);
  }
}

}  // namespace
}  // namespace purekv
