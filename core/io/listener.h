// Listening sockets. Each shard has its own one for each address (SO_REUSEPORT), and the kernel
// spreads the connections over them.
#pragma once

#include <span>

#include "core/base/address.h"
#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux {

struct ListenOptions {
  Endpoint endpoint;
  bool v6_only = false;
  // Connections are delivered when their first bytes are there, or after about a second.
  bool defer_accept = false;
  int backlog = 4096;  // the kernel's bound is the sysctl net.core.somaxconn
};

// An accepted socket inherits the options of its listener and goes to the backend with them, so
// beyond what is asked for we set none: TCP_NODELAY and the like are the backend's to choose, as
// they would be for a socket of its own accept().
Result<OwnFd> open_listener(const ListenOptions& options);

// Connections are delivered as soon as they are there, for a listener that will go: what it holds
// back would go with it.
void stop_deferring(int listener);

// To be asked before the first listener: SO_REUSEPORT lets us join the listeners of another tcpmuxd
// of the same user without an error, and then each gets a part of the connections.
Status check_port_is_free(const Endpoint& endpoint, bool v6_only);

// The address that `fd` is bound to: tells the port where 0 was asked for.
Result<Endpoint> local_endpoint(int fd);

// [::]:P serves IPv4 too, unless 0.0.0.0:P is asked for beside it; other IPv6 addresses do not.
bool v6_only_for(const Endpoint& endpoint, std::span<const Endpoint> all_endpoints);

}  // namespace tcpmux
