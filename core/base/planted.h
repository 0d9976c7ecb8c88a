// Bugs that can be planted, for the test of the simulator (tests/sim): one that does not find them
// is broken. Only tcpmux-sim-canary is compiled with TCPMUX_PLANTED_BUGS; everywhere else planted()
// is a constant false, and nothing of this is left.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tcpmux {

enum class Bug : std::uint8_t {
  kNone,
  kHandedOutTwice,    // a socket that was taken back goes into two messages
  kPlusWithoutPlace,  // a lane that is full still promises a place
  kLeakOnEagain,      // a socket whose message found no room is forgotten
  kLostDeadline,      // after the first part of a line, nothing limits the wait for the next
  kPassedWhenDone,    // a shard that has said that it is done passes a connection on
  kTakenBackBlindly,  // what is taken back may find no descriptor
  kDoneSaidOnce,      // a shard that is done says so once, heard or not
  kOneByteTooMany,    // a byte behind the request line is consumed
  kWelcomeTooEarly,   // a backend is welcomed before every shard knows of it
  kRegisteredTwice,   // a connection may register again, beside what it has
};

#ifdef TCPMUX_PLANTED_BUGS
inline constexpr bool kCanBePlanted = true;
inline Bug planted_bug = Bug::kNone;
inline bool planted(Bug bug) {
  return planted_bug == bug;
}
#else
inline constexpr bool kCanBePlanted = false;
inline Bug planted_bug = Bug::kNone;
constexpr bool planted(Bug) {
  return false;
}
#endif

// How they are called on the command line, in the order of the enum.
inline constexpr std::array<std::string_view, 11> kBugNames = {"none",
                                                               "handed-out-twice",
                                                               "plus-without-place",
                                                               "leak-on-eagain",
                                                               "lost-deadline",
                                                               "passed-when-done",
                                                               "taken-back-blindly",
                                                               "done-said-once",
                                                               "one-byte-too-many",
                                                               "welcome-too-early",
                                                               "registered-twice"};

}  // namespace tcpmux
