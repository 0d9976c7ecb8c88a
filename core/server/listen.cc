#include "core/server/listen.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
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

// All shards accept from the one socket; the kernel wakes one of them for each connection.
Result<Listening> share(std::vector<OwnFd> inherited, std::uint32_t shards) {
  Listening listening;
  listening.inherited = true;
  listening.by_shard.resize(shards);
  for (OwnFd& socket : inherited) {
    const Result<Endpoint> endpoint = local_endpoint(socket.get());
    if (!endpoint) return std::unexpected(endpoint.error());
    listening.endpoints.push_back(*endpoint);
    for (auto& own : listening.by_shard) {
      OwnFd copy(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
      if (!copy.valid()) return fail_errno("fcntl(F_DUPFD_CLOEXEC)");
      own.push_back({.socket = std::move(copy), .inherited = true});
    }
  }
  return listening;
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

// One listener for each shard on one address.
Status listen_on(Endpoint endpoint, bool v6_only, bool defer_accept, Listening& listening) {
  if (Status free = wait_for_port(endpoint, v6_only); !free) return free;
  for (auto& own : listening.by_shard) {
    Result<OwnFd> socket =
        open_listener({.endpoint = endpoint, .v6_only = v6_only, .defer_accept = defer_accept});
    if (!socket) return std::unexpected(socket.error());
    // Port 0: the kernel chooses for the first shard, and the others follow.
    const Result<Endpoint> real = local_endpoint(socket->get());
    if (!real) return std::unexpected(real.error());
    endpoint.port = real->port;
    own.push_back({.socket = *std::move(socket)});
  }
  listening.endpoints.push_back(endpoint);
  return {};
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
  if (!inherited.empty()) return share(std::move(inherited), shards);
  Listening listening;
  listening.by_shard.resize(shards);
  for (const Endpoint& endpoint : config.listen) {
    const Status listened = listen_on(endpoint, v6_only_for(endpoint, config.listen),
                                      config.handshake.defer_accept, listening);
    if (listened) continue;
    // A machine without IPv6 is no reason to stop, where nobody asked for it.
    if (!config.listen_is_default || !machine_lacks(listened.error()))
      return std::unexpected(listened.error());
    listening.remarks.push_back("not listening on " + to_string(endpoint) + ": " +
                                listened.error().message);
  }
  if (listening.endpoints.empty()) return fail("there is no address left to listen on");
  return listening;
}

}  // namespace tcpmux
