#include "core/io/listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace tcpmux {
namespace {

std::string advice(int error, const Endpoint& endpoint) {
  const std::string port = std::to_string(endpoint.port);
  switch (error) {
    case EACCES:
      return "; port " + port +
             " needs root or CAP_NET_BIND_SERVICE (setcap cap_net_bind_service=+ep on the program, "
             "or AmbientCapabilities= in its systemd unit), or take a port from 1024 on";
    case EADDRINUSE:
      return "; another program listens there (ss -ltnp 'sport = :" + port +
             "' names it): stop it, or listen elsewhere";
    case EADDRNOTAVAIL:
      return "; no interface of this machine has that address";
    case EAFNOSUPPORT:
      return endpoint.address.family == IpAddress::Family::kV6
                 ? "; this machine has no IPv6, so listen on IPv4 addresses only"
                 : "; this machine has no IPv4, so listen on IPv6 addresses only";
    default:
      return "";
  }
}

std::unexpected<Error> fail_at(const char* call, const Endpoint& endpoint, int error) {
  Error made = system_error(std::string(call) + " " + to_string(endpoint), error);
  made.message += advice(error, endpoint);
  return std::unexpected(std::move(made));
}

bool enable(int fd, int level, int name) {
  const int on = 1;
  return ::setsockopt(fd, level, name, &on, sizeof on) == 0;
}

Result<OwnFd> open_bound(const Endpoint& endpoint, bool v6_only, bool shared) {
  const bool v6 = endpoint.address.family == IpAddress::Family::kV6;
  OwnFd fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_at("socket for", endpoint, errno);
  const int only = v6_only ? 1 : 0;
  // REUSEADDR: connections of our predecessor in TIME_WAIT are no reason not to start.
  if (!enable(fd.get(), SOL_SOCKET, SO_REUSEADDR) ||
      (shared && !enable(fd.get(), SOL_SOCKET, SO_REUSEPORT)) ||
      (v6 && ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) < 0))
    return fail_at("setsockopt for", endpoint, errno);
  sockaddr_storage address;
  const socklen_t size = to_sockaddr(endpoint, address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) < 0)
    return fail_at("bind", endpoint, errno);
  return fd;
}

bool is_wildcard(const IpAddress& address) {
  return std::all_of(address.bytes.begin(), address.bytes.end(),
                     [](auto byte) { return byte == 0; });
}

}  // namespace

Result<OwnFd> open_listener(const ListenOptions& options) {
  Result<OwnFd> fd = open_bound(options.endpoint, options.v6_only, true);
  if (!fd) return fd;
  // Where it is not supported, connections come earlier and wait with us: no reason to fail.
  if (options.defer_accept) enable(fd->get(), IPPROTO_TCP, TCP_DEFER_ACCEPT);
  if (::listen(fd->get(), options.backlog) < 0)
    return fail_at("listen on", options.endpoint, errno);
  return fd;
}

void stop_deferring(int listener) {
  const int off = 0;
  // Where it cannot be told so, the few that it holds back are reset.
  ::setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &off, sizeof off);
}

Status check_port_is_free(const Endpoint& endpoint, bool v6_only) {
  const Result<OwnFd> fd = open_bound(endpoint, v6_only, false);
  if (!fd) return std::unexpected(fd.error());
  return {};
}

Result<Endpoint> local_endpoint(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) < 0)
    return fail_errno("getsockname");
  return endpoint_from(address);
}

bool v6_only_for(const Endpoint& endpoint, std::span<const Endpoint> all_endpoints) {
  if (endpoint.address.family != IpAddress::Family::kV6) return false;
  if (!is_wildcard(endpoint.address)) return true;
  return std::any_of(all_endpoints.begin(), all_endpoints.end(), [&](const Endpoint& other) {
    return other.address.family == IpAddress::Family::kV4 && is_wildcard(other.address) &&
           other.port == endpoint.port;
  });
}

}  // namespace tcpmux
