// Ancillary, the part that calls the kernel.
#include <cerrno>

#include "handoff/ancillary.h"

namespace tcpmux::handoff {

Received receive(int socket, std::span<std::byte> payload, std::span<OwnFd> places, int flags) {
  ReceiveCall call(payload);
  ssize_t bytes = 0;
  do {
    bytes = ::recvmsg(socket, call.message(), flags | MSG_CMSG_CLOEXEC);
  } while (bytes < 0 && errno == EINTR && (flags & MSG_DONTWAIT) != 0);
  return call.finish(bytes < 0 ? -errno : bytes, places);
}

int send_now(int socket, std::span<const std::byte> payload, std::span<const int> descriptors) {
  ControlBuffer<kDescriptorsMax> control;
  iovec vector{};
  msghdr message{};
  prepare_send(message, vector, payload, control.bytes, descriptors);
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? errno : 0;
}

}  // namespace tcpmux::handoff
