// Which sockets each shard listens on: opened by us, one for each shard and address, or passed to
// us by a service manager (sd_listen_fds(3)), and then shared by all shards.
#pragma once

#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/server/config.h"
#include "core/server/shard.h"

namespace tcpmux {

struct Listening {
  std::vector<std::vector<ShardListener>> by_shard{};
  std::vector<Endpoint> endpoints{};  // with real ports, where 0 was asked for
  bool inherited = false;
  std::vector<std::string> remarks{};  // for the log: addresses that this machine does not have
};

// The descriptors that LISTEN_PID and LISTEN_FDS say were passed to this process; none is usual.
// The variables are removed, so that no child takes them for its own.
Result<std::vector<OwnFd>> inherited_listeners();

// How many listeners each shard will have, at most.
std::size_t listeners_per_shard(const Config& config, const std::vector<OwnFd>& inherited);

Result<Listening> start_listening(const Config& config, std::vector<OwnFd> inherited,
                                  std::uint32_t shards);

}  // namespace tcpmux
