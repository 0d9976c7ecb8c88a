// Which errors a system call may be made to fail with: those that Linux gives for it without any
// bug of the caller, the likeliest first. What can fail through a bug alone has none.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tcpmux::faults {

enum class Kind : std::uint8_t {
  kFails,         // has plausible errors
  kNever,         // has none, or cannot be failed without doing it: why, is in the table
  kUnclassified,  // nobody has thought about it yet
};

struct Verdict {
  Kind kind = Kind::kUnclassified;
  const char* name = nullptr;  // nullptr: unclassified
  std::span<const int> errors;
};

// `operation`: the call's second argument. `descriptor`: what the first one is, where it is a
// descriptor, as /proc/PID/fd says it.
Verdict judge(int number, std::uint64_t operation, std::string_view descriptor);

// Calls that no arguments make fail: the filter need not ask about them. Ends with -1.
std::span<const int> never_failed();

}  // namespace tcpmux::faults
