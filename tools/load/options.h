// The command line of tcpmux-load.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/address.h"
#include "tools/load/kinds.h"

namespace load {

inline constexpr int kExitFailures = 1;
inline constexpr int kExitCannotRun = 2;

enum class Engine : std::uint8_t { kAuto, kUring, kEpoll };
enum class Mode : std::uint8_t { kClosed, kOpen, kBacklog, kHold };

struct Options {
  tcpmux::Endpoint target;
  bool any_address = false;

  std::string service = "echo";
  std::string expect;
  KindMix kinds;
  std::uint64_t messages = 10;
  std::uint32_t bytes = 64;
  bool direct = false;

  Mode mode = Mode::kClosed;
  std::uint32_t connections = 64;  // at once; in a backlog: all
  double rate = 0;
  pid_t stop = 0;               // whose backlog
  std::uint64_t count = 0;      // 0: by time
  double duration_seconds = 0;  // 0: without end (by count, or held)
  double warm_up_seconds = 0;
  std::int64_t timeout_ms = 10'000;

  bool reset = false;
  std::uint32_t source_addresses = 16;
  Engine engine = Engine::kAuto;
  std::uint32_t threads = 1;
  std::vector<int> pin;

  std::vector<pid_t> cpu_of;
  bool json = false;
  std::optional<bool> progress;  // empty: when stderr is a terminal
};

struct ParsedOptions {
  Options options;
  std::optional<int> exit_code;  // set where there is nothing to be run: --help, or a mistake
};

// Writes help to stdout, and what is wrong to stderr.
ParsedOptions parse_options(int argc, const char* const* argv);

}  // namespace load
