// Which sockets each shard listens on: opened by us, one for each shard and address; passed to us
// by a service manager (sd_listen_fds(3)), and then shared by all shards; or taken over from the
// process before us. Shards own the sockets; the daemon keeps their numbers, for a successor.
#pragma once

#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/server/config.h"
#include "core/server/shard_options.h"

namespace tcpmux {

struct ListenAddress {
  std::uint32_t number = 0;    // ShardListener::address
  Endpoint wanted{};           // as configured: port 0 lets the kernel choose
  Endpoint real{};             // the same with the port that it chose
  bool inherited = false;      // from a service manager: the configuration has no say in it
  std::vector<int> sockets{};  // owned by shards
};

struct Listening {
  std::vector<std::vector<ShardListener>> by_shard{};
  std::vector<ListenAddress> addresses{};
  // No longer wanted, but shards still accept there: closing a listener resets who is on the way,
  // so it is to be done a moment after the last client had reason to come.
  std::vector<std::uint32_t> leaving{};
  std::uint32_t next_number = 0;
  std::vector<std::string> remarks{};  // for the log: addresses that this machine does not have

  bool inherited() const { return !addresses.empty() && addresses.front().inherited; }
};

// What the process before us listened on.
struct OfferedAddress {
  Endpoint wanted{};
  Endpoint real{};
  bool inherited = false;
  std::vector<OwnFd> sockets{};
};

// The descriptors that LISTEN_PID and LISTEN_FDS say were passed to this process; none is usual.
// The variables are removed, so that no child takes them for its own.
Result<std::vector<OwnFd>> inherited_listeners();

// How many listeners each shard will have, at most.
std::size_t listeners_per_shard(const Config& config, const std::vector<OwnFd>& inherited);

Result<Listening> start_listening(const Config& config, std::vector<OwnFd> inherited,
                                  std::uint32_t shards);

// What is configured and offered is taken over, with who waits there; what is offered alone is
// `leaving`.
Result<Listening> take_over_listening(const Config& config, std::vector<OfferedAddress> offered,
                                      std::uint32_t shards);

// From `now` to what `config` says: `by_shard` of the result has the new sockets alone. Nothing has
// changed where it fails.
Result<Listening> change_listening(const Listening& now, const Config& config,
                                   std::uint32_t shards);

}  // namespace tcpmux
