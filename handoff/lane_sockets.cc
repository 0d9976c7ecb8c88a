#include "handoff/lane_sockets.h"

#include <sys/socket.h>

#include <algorithm>

namespace tcpmux::handoff {
namespace {

// What the kernel charges the sender for one waiting message with one socket (Linux 6.18: 768 bytes
// up to about 190 bytes of payload, 1,280 up to about 700): with this much send buffer for each
// place of the window the queue is never full before the window is.
constexpr std::uint32_t kMessageCostBytes = 1280;

}  // namespace

Result<LaneSockets> make_lane_sockets(LaneKind kind) {
  const int type = kind == LaneKind::kRawStream ? SOCK_STREAM : SOCK_SEQPACKET;
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) < 0) return fail_errno("socketpair");
  return LaneSockets{.ours = OwnFd(ends[0]), .theirs = OwnFd(ends[1])};
}

Result<std::uint32_t> fit_window(int fd, std::uint32_t window) {
  // The kernel doubles what it is given (socket(7)).
  const int wanted = static_cast<int>(window * (kMessageCostBytes / 2));
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) < 0 &&
      ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted) < 0)
    return fail_errno("setsockopt(SO_SNDBUF)");
  int bytes = 0;
  socklen_t size = sizeof bytes;
  if (::getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) < 0)
    return fail_errno("getsockopt(SO_SNDBUF)");
  const auto fits = static_cast<std::uint32_t>(bytes) / kMessageCostBytes;
  return std::clamp<std::uint32_t>(fits, 1, window);
}

}  // namespace tcpmux::handoff
