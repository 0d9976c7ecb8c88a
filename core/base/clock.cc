#include "core/base/clock.h"

#include <ctime>

#include "core/base/check.h"

namespace tcpmux {
namespace {

std::int64_t read_clock(clockid_t id) {
  timespec now{};
  TCPMUX_CHECK(::clock_gettime(id, &now) == 0, "the kernel has no such clock");
  return static_cast<std::int64_t>(now.tv_sec) * kNanosPerSecond + now.tv_nsec;
}

}  // namespace

std::int64_t monotonic_ns() {
  return read_clock(CLOCK_MONOTONIC);
}
std::int64_t realtime_ns() {
  return read_clock(CLOCK_REALTIME);
}

}  // namespace tcpmux
