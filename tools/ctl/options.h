// The command line of tcpmux.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ctl {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitWrongUsage = 2;
inline constexpr int kExitNoDaemon = 3;

enum class Command : std::uint8_t { kStatus, kDrain, kReload, kUpgrade };

struct Options {
  Command command = Command::kStatus;
  std::string control;  // the control socket's path
  bool json = false;
  bool wait = false;  // drain: until the daemon has ended
};

struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;  // set where there is nothing to be done: --help, or a mistake
};

// Writes help to stdout, and what is wrong to stderr.
ParsedOptions parse_options(int argc, const char* const* argv);

}  // namespace ctl
