// How a connection may end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace load {

enum class Outcome : std::uint8_t {
  kCompleted,
  // failures
  kRefused,          // nobody listens there
  kReset,            // by the other side
  kTimedOut,         // within --timeout, counted from the (intended) start
  kWrongReply,       // a byte that should not be, in the reply or in what was echoed
  kDenied,           // a well-formed '-' where '+' was wanted
  kClosedEarly,      // the other side's end before a whole reply line
  kClosedAfterPlus,  // or after '+', before the session was over
  kLocal,            // no port, no descriptor, or no memory on our side
  // neither
  kHeld,  // was to be kept open, and was
};
inline constexpr std::size_t kOutcomeCount = 10;
inline constexpr std::size_t kFirstFailure = 1;
inline constexpr std::size_t kFailuresEnd = 9;
inline constexpr std::array<std::string_view, kOutcomeCount> kOutcomeNames = {
    "completed",    "refused",           "reset", "timed_out", "wrong_reply", "denied",
    "closed_early", "closed_after_plus", "local", "held"};

inline std::string_view to_string(Outcome outcome) {
  return kOutcomeNames[static_cast<std::size_t>(outcome)];
}

inline bool is_failure(Outcome outcome) {
  return outcome != Outcome::kCompleted && outcome != Outcome::kHeld;
}

}  // namespace load
