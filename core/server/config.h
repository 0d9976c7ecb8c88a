// What the daemon is told: a TOML file, flags that override it, and the defaults. Everything is
// checked before anything starts; what is wrong is refused with file, line, column and what would
// be right. Every key is explained in tcpmuxd.example.toml.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/address.h"
#include "core/base/result.h"
#include "core/mux/service_table.h"

namespace tcpmux {

enum class EngineChoice : std::uint8_t { kAuto, kUring, kEpoll };
enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError, kOff };
// How they are written, in the order of the enums.
inline constexpr std::array<std::string_view, 3> kEngineNames = {"auto", "io_uring", "epoll"};
inline constexpr std::array<std::string_view, 5> kLogLevelNames = {"debug", "info", "warning",
                                                                   "error", "off"};

inline constexpr std::uint32_t kShardsMax = 64;  // a set of shards is a 64-bit mask
inline constexpr std::size_t kListenMax = 64;    // addresses; each costs every shard a socket

struct Config {
  // Defaults: 0.0.0.0:1 and [::]:1. `listen_is_default`: neither file nor flags name an address,
  // so a machine without IPv6 is no reason to stop.
  std::vector<Endpoint> listen;
  bool listen_is_default = true;
  std::uint32_t shards = 0;  // 0: one for each core that we may run on
  EngineChoice engine = EngineChoice::kAuto;
  LogLevel log_level = LogLevel::kInfo;

  struct Registry {
    std::string path = "/run/tcpmux/registry.sock";
    bool open = false;         // may names that nobody configured be registered?
    std::vector<uid_t> users;  // who may register, besides root and our own uid
    std::vector<gid_t> groups;
  } registry;

  struct Control {
    // "": no control socket. Absent: beside the registry's (control_path()).
    std::optional<std::string> path;
  } control;
  // What holds: registry.path with ".control.sock" in the place of ".sock", where none is named.
  std::string control_path() const;

  struct Handshake {
    std::uint32_t deadline_ms = 10'000;  // accept to the end of the reply
    std::uint32_t line_bytes_max = 512;  // with its line end
    std::uint32_t connections_per_shard_max = 8192;
    bool defer_accept = true;
  } handshake;

  struct Handoff {
    std::uint32_t window_max = 1024;     // handoffs that may wait in one lane
    std::uint32_t stall_ms = 2'000;      // a queue that does not move for so long is taken back
    std::uint32_t deadline_ms = 10'000;  // after '+': no backend for so long, and it is closed
    std::uint32_t room_wait_ms = 1000;   // before '+': no place for so long, and it is "-busy"
  } handoff;

  bool help_enabled = true;
  ServiceTable services;
};

// What the command line said.
struct CommandLine {
  std::optional<std::string> config_path;
  bool check_config = false;
  std::vector<std::string> listen;
  std::optional<std::string> registry_path;
  std::optional<std::string> control_path;
  std::optional<std::uint32_t> shards;
  std::optional<EngineChoice> engine;
  std::optional<LogLevel> log_level;
};

// Parses argv. `exit_code` is set when the program must end here (--help, --version, or a wrong
// argument, whose reason has been printed): the caller exits with it.
struct ParsedCommandLine {
  CommandLine options;
  std::optional<int> exit_code;
};
ParsedCommandLine parse_command_line(int argc, const char* const* argv);

// Parses TOML text; `source` is the file's name for messages. An error's message may have several
// lines, one for each thing that is wrong, each "FILE:LINE:COLUMN: what, and what would be right".
Result<Config> parse_config(std::string_view toml, const std::string& source);

// File (where one is named), then flags over it, then checks that need both.
Result<Config> load_config(const CommandLine& options);

}  // namespace tcpmux
