#include "tools/ctl/conversation.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "core/base/clock.h"
#include "core/server/control_path.h"
#include "tools/ctl/options.h"

namespace ctl {
namespace {

std::unexpected<Failure> failed(std::string message) {
  return std::unexpected(Failure{kExitFailed, std::move(message)});
}

Failure why_not_connected(const std::string& path, int error) {
  const std::string what = path + ": " + std::strerror(error);
  if (error == EACCES || error == EPERM)
    return {kExitFailed, what + "; only root and the user that tcpmuxd runs as may control it"};
  return {kExitNoDaemon, "no tcpmuxd listens at " + what +
                             "; is it running? One with other paths is found with --registry PATH "
                             "or --control PATH"};
}

tcpmux::OwnFd process_behind(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0 || peer.pid <= 0)
    return tcpmux::OwnFd();
  // glibc 2.36 declares pidfd_open for C alone.
  return tcpmux::OwnFd(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
}

// False when the time has come. An interrupted wait is waited again.
bool wait_readable(int fd, std::int64_t deadline_ns) {
  for (;;) {
    const std::int64_t left_ns = std::max<std::int64_t>(deadline_ns - tcpmux::monotonic_ns(), 0);
    const std::int64_t left_ms = (left_ns + tcpmux::kNanosPerMilli - 1) / tcpmux::kNanosPerMilli;
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    const int timeout = deadline_ns == tcpmux::kNever_ns
                            ? -1
                            : static_cast<int>(std::min<std::int64_t>(left_ms, INT_MAX));
    const int result = ::poll(&one, 1, timeout);
    if (result > 0) return true;
    if (result == 0 && left_ns == 0) return false;
  }
}

}  // namespace

std::expected<Conversation, Failure> Conversation::begin(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() > tcpmux::control_path_bytes_max())
    return failed("'" + path + "' cannot be a control socket's path: it has 1 to " +
                  std::to_string(tcpmux::control_path_bytes_max()) + " bytes");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  tcpmux::OwnFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return failed(std::string("socket(AF_UNIX): ") + std::strerror(errno));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return std::unexpected(why_not_connected(path, errno));
  tcpmux::OwnFd process = process_behind(socket.get());
  return Conversation(path, std::move(socket), std::move(process));
}

std::expected<std::string, Failure> Conversation::ask(const std::string& line,
                                                      std::int64_t patience_ns) {
  const std::string request = line + "\n";
  // One that is refused is told so before it has said anything, so what can be read counts.
  [[maybe_unused]] const ssize_t sent =
      ::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL);
  const std::int64_t deadline_ns = tcpmux::monotonic_ns() + patience_ns;
  std::string reply;
  std::array<char, 65'536> buffer;
  while (wait_readable(socket_.get(), deadline_ns)) {
    const ssize_t bytes = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0)
      return failed("the daemon at " + path_ + " ended the connection without a reply");
    reply.append(buffer.data(), static_cast<std::size_t>(bytes));
    const std::size_t end = reply.find('\n');
    if (end != std::string::npos) return reply.substr(0, end);
  }
  return failed("the daemon at " + path_ + " did not reply within " +
                std::to_string(patience_ns / tcpmux::kNanosPerSecond) + " s");
}

std::expected<void, Failure> Conversation::wait_for_end() const {
  if (!process_.valid())
    return failed("the daemon's end cannot be waited for: its process cannot be seen from here");
  wait_readable(process_.get(), tcpmux::kNever_ns);
  return {};
}

}  // namespace ctl
