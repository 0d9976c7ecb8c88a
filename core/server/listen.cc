#include "core/server/listen.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <optional>
#include <thread>

#include "core/base/clock.h"
#include "core/io/listener.h"

namespace tcpmux {
namespace {

constexpr int kFirstPassedFd = 3;  // SD_LISTEN_FDS_START
constexpr std::int64_t kPortPatience_ns = 2 * kNanosPerSecond;

std::optional<long> number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return std::nullopt;
  long value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  return error == std::errc{} && *end == '\0' ? std::optional(value) : std::nullopt;
}

Status check_is_tcp_listener(int fd) {
  int listening = 0;
  int type = 0;
  socklen_t size = sizeof listening;
  const bool is_listening =
      ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening != 0;
  size = sizeof type;
  const bool is_stream =
      ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
  if (!is_listening || !is_stream)
    return fail("descriptor " + std::to_string(fd) +
                " was passed by LISTEN_FDS, but is no listening TCP socket (ListenStream= in the "
                "socket unit, with Accept=no)");
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return fail_errno("fcntl(F_SETFD)");
  return {};
}

// One socket for each shard in turn; a shard that goes short gets a copy of the first.
Status add_address(ListenAddress address, std::vector<OwnFd> sockets, Listening& listening) {
  const std::size_t shards = listening.by_shard.size();
  while (sockets.size() < shards) {
    OwnFd copy(::fcntl(sockets.front().get(), F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) return fail_errno("fcntl(F_DUPFD_CLOEXEC)");
    sockets.push_back(std::move(copy));
  }
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    address.sockets.push_back(sockets[i].get());
    listening.by_shard[i % shards].push_back({.socket = std::move(sockets[i]),
                                              .inherited = address.inherited,
                                              .address = address.number});
  }
  listening.addresses.push_back(std::move(address));
  return {};
}

bool machine_lacks(const Error& error) {
  return error.code == EAFNOSUPPORT || error.code == EADDRNOTAVAIL;
}

// A daemon that was killed a moment ago may still hold the port: the kernel ends its rings, and
// with them the accepts that hold its listeners, only after the process has gone (Linux 6.18).
Status wait_for_port(const Endpoint& endpoint, bool v6_only) {
  const std::int64_t until_ns = monotonic_ns() + kPortPatience_ns;
  for (;;) {
    Status free = check_port_is_free(endpoint, v6_only);
    if (free || free.error().code != EADDRINUSE || monotonic_ns() > until_ns) return free;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// Fills up to one listener for each shard on one address.
Result<std::vector<OwnFd>> open_for_shards(Endpoint endpoint, const Config& config,
                                           std::vector<OwnFd> sockets, std::size_t shards) {
  while (sockets.size() < shards) {
    Result<OwnFd> socket = open_listener({.endpoint = endpoint,
                                          .v6_only = v6_only_for(endpoint, config.listen),
                                          .defer_accept = config.handshake.defer_accept});
    if (!socket) return std::unexpected(socket.error());
    // Port 0: the kernel chooses for the first shard, and the others follow.
    const Result<Endpoint> real = local_endpoint(socket->get());
    if (!real) return std::unexpected(real.error());
    endpoint.port = real->port;
    sockets.push_back(*std::move(socket));
  }
  return sockets;
}

// `ours`: what we, or the process before us, listen on already. On a port of ours nobody else can
// be expected, and the check would find us.
Status listen_on(const Endpoint& wanted, const Config& config, const std::vector<Endpoint>& ours,
                 Listening& listening) {
  const bool is_ours = std::any_of(ours.begin(), ours.end(), [&](const Endpoint& one) {
    return wanted.port != 0 && one.port == wanted.port;
  });
  if (!is_ours)
    if (Status free = wait_for_port(wanted, v6_only_for(wanted, config.listen)); !free) return free;
  auto sockets = open_for_shards(wanted, config, {}, listening.by_shard.size());
  if (!sockets) return std::unexpected(sockets.error());
  ListenAddress address{.number = listening.next_number++, .wanted = wanted};
  address.real = local_endpoint(sockets->front().get()).value_or(wanted);
  return add_address(std::move(address), *std::move(sockets), listening);
}

// The addresses of `config` that `listening` does not have yet.
Status listen_on_the_rest(const Config& config, const std::vector<Endpoint>& ours,
                          Listening& listening) {
  std::vector<Endpoint> there;
  for (const ListenAddress& address : listening.addresses)
    there.push_back(address.wanted);
  for (const Endpoint& wanted : config.listen) {
    // Port 0 may be asked for more than once.
    const auto found = std::find(there.begin(), there.end(), wanted);
    if (found != there.end()) {
      there.erase(found);
      continue;
    }
    const Status listened = listen_on(wanted, config, ours, listening);
    if (listened) continue;
    // A machine without IPv6 is no reason to stop, where nobody asked for it.
    if (!config.listen_is_default || !machine_lacks(listened.error())) return listened;
    listening.remarks.push_back("not listening on " + to_string(wanted) + ": " +
                                listened.error().message);
  }
  if (listening.addresses.empty()) return fail("there is no address left to listen on");
  return {};
}

// Whether a socket serves IPv4 too is decided when it is made, and depends on its neighbours.
bool serves_as_configured(const Config& config, const Endpoint& wanted, int socket) {
  if (wanted.address.family != IpAddress::Family::kV6) return true;
  int v6_only = 0;
  socklen_t size = sizeof v6_only;
  return ::getsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, &size) == 0 &&
         (v6_only != 0) == v6_only_for(wanted, config.listen);
}

bool wants(const Config& config, const std::vector<ListenAddress>& taken, const Endpoint& wanted,
           int socket) {
  if (!serves_as_configured(config, wanted, socket)) return false;
  const auto of_taken = std::count_if(
      taken.begin(), taken.end(), [&](const ListenAddress& one) { return one.wanted == wanted; });
  return std::count(config.listen.begin(), config.listen.end(), wanted) > of_taken;
}

}  // namespace

Result<std::vector<OwnFd>> inherited_listeners() {
  std::vector<OwnFd> sockets;
  const std::optional<long> pid = number_from_environment("LISTEN_PID");
  const std::optional<long> count = number_from_environment("LISTEN_FDS");
  if (!pid || !count || *pid != ::getpid()) return sockets;
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
    ::unsetenv(name);
  for (int i = 0; i < *count; ++i) {
    if (Status usable = check_is_tcp_listener(kFirstPassedFd + i); !usable)
      return std::unexpected(usable.error());
    sockets.emplace_back(kFirstPassedFd + i);
  }
  return sockets;
}

std::size_t listeners_per_shard(const Config& config, const std::vector<OwnFd>& inherited) {
  return inherited.empty() ? config.listen.size() : inherited.size();
}

Result<Listening> start_listening(const Config& config, std::vector<OwnFd> inherited,
                                  std::uint32_t shards) {
  Listening listening;
  listening.by_shard.resize(shards);
  for (OwnFd& socket : inherited) {
    const Result<Endpoint> endpoint = local_endpoint(socket.get());
    if (!endpoint) return std::unexpected(endpoint.error());
    ListenAddress address{.number = listening.next_number++,
                          .wanted = *endpoint,
                          .real = *endpoint,
                          .inherited = true};
    std::vector<OwnFd> one;
    one.push_back(std::move(socket));
    if (Status added = add_address(std::move(address), std::move(one), listening); !added)
      return std::unexpected(added.error());
  }
  if (listening.inherited()) return listening;
  if (Status listened = listen_on_the_rest(config, {}, listening); !listened)
    return std::unexpected(listened.error());
  return listening;
}

Result<Listening> take_over_listening(const Config& config, std::vector<OfferedAddress> offered,
                                      std::uint32_t shards) {
  Listening listening;
  listening.by_shard.resize(shards);
  std::vector<Endpoint> ours;
  std::vector<OwnFd> not_wanted;
  for (OfferedAddress& one : offered) {
    ours.push_back(one.real);
    if (!one.inherited &&
        !wants(config, listening.addresses, one.wanted, one.sockets.front().get())) {
      std::move(one.sockets.begin(), one.sockets.end(), std::back_inserter(not_wanted));
      continue;
    }
    ListenAddress address{.number = listening.next_number++,
                          .wanted = one.wanted,
                          .real = one.real,
                          .inherited = one.inherited};
    auto sockets = one.inherited
                       ? Result<std::vector<OwnFd>>(std::move(one.sockets))
                       : open_for_shards(one.real, config, std::move(one.sockets), shards);
    if (!sockets) return std::unexpected(sockets.error());
    if (Status added = add_address(std::move(address), *std::move(sockets), listening); !added)
      return std::unexpected(added.error());
  }
  for (std::size_t i = 0; i < not_wanted.size(); ++i) {
    stop_deferring(not_wanted[i].get());
    listening.by_shard[i % shards].push_back(
        {.socket = std::move(not_wanted[i]), .address = listening.next_number});
  }
  if (!not_wanted.empty()) listening.leaving.push_back(listening.next_number++);
  if (listening.inherited()) return listening;
  if (Status listened = listen_on_the_rest(config, ours, listening); !listened)
    return std::unexpected(listened.error());
  return listening;
}

Result<Listening> change_listening(const Listening& now, const Config& config,
                                   std::uint32_t shards) {
  Listening next;
  next.by_shard.resize(shards);
  next.next_number = now.next_number;
  std::vector<Endpoint> ours;
  for (const ListenAddress& address : now.addresses) {
    ours.push_back(address.real);
    if (address.inherited || wants(config, next.addresses, address.wanted, address.sockets.front()))
      next.addresses.push_back(address);
    else
      next.leaving.push_back(address.number);
  }
  if (now.inherited()) return next;
  if (Status listened = listen_on_the_rest(config, ours, next); !listened)
    return std::unexpected(listened.error());
  for (const ListenAddress& address : now.addresses)
    if (std::ranges::find(next.leaving, address.number) != next.leaving.end())
      std::ranges::for_each(address.sockets, stop_deferring);
  return next;
}

}  // namespace tcpmux
