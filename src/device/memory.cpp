#include "device/memory.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "base/fail.h"
#include "device/cuda/calls.h"

namespace purekv {
namespace {

std::int64_t meminfo_available() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::numeric_limits<std::int64_t>::max();
}

/// What RLIMIT_AS still allows: the limit less the address space already taken.
std::int64_t address_space_left() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return std::numeric_limits<std::int64_t>::max();
  std::ifstream file("/proc/self/statm");
  std::int64_t pages = 0;
  file >> pages;
  return static_cast<std::int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGESIZE);
}

}  // namespace

std::int64_t available_bytes(const Context& context) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::free_bytes(*context.cuda);
  return std::max<std::int64_t>(0, std::min(meminfo_available(), address_space_left()));
}

void require_bytes(const Context& context, std::int64_t bytes, std::string_view what, std::string_view remedy) {
  const std::int64_t have = available_bytes(context);
  if (bytes > have)
    fail(ErrorKind::kResource, "{} needs {} bytes of memory, {} are available; {}", what, bytes, have, remedy);
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace purekv
