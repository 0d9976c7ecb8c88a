// What a shard is told when it is made, and what of that may change while it runs.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/fd.h"

namespace tcpmux {

struct ShardListener {
  OwnFd socket;
  // Others hold it too (a service manager, a successor): its backlog stays for whoever comes after.
  bool inherited = false;
  std::uint32_t address = 0;  // which of the daemon's addresses it listens on
};

struct ShardSettings {
  std::uint32_t connections_max = 0;  // later never more than at first: the slots are made once
  std::uint32_t line_bytes_max = 512;
  std::int64_t handshake_deadline_ns = 0;
  std::int64_t room_wait_ns = 0;
  std::int64_t handoff_deadline_ns = 0;
  bool help_enabled = true;
};

struct ShardOptions : ShardSettings {
  std::uint32_t number = 0;
  std::vector<ShardListener> listeners;
  std::uint32_t busy_max = 64;       // slots, beyond those, in which newcomers are told "-busy"
  std::uint32_t taken_back_max = 0;  // slots, beyond those, for what comes back from lanes
};

// A new configuration, as far as shards are concerned. Deadlines that run already stay.
struct ShardChange {
  ShardSettings settings;
  std::vector<ShardListener> added;
  std::vector<std::uint32_t> removed;  // addresses; who waits in their backlogs is still served
};

}  // namespace tcpmux
