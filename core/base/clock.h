// Times are plain nanosecond counts named `..._ns`; durations from configuration are `..._ms`.
#pragma once

#include <cstdint>

namespace tcpmux {

inline constexpr std::int64_t kNanosPerMilli = 1'000'000;
inline constexpr std::int64_t kNanosPerSecond = 1'000'000'000;
// Later than any deadline: "never".
inline constexpr std::int64_t kNever_ns = INT64_MAX;

std::int64_t monotonic_ns();  // CLOCK_MONOTONIC
std::int64_t realtime_ns();   // CLOCK_REALTIME, nanoseconds since the Unix epoch

}  // namespace tcpmux
