#include "handoff/ancillary.h"

#include <cerrno>
#include <cstring>

#include "core/base/check.h"

namespace tcpmux::handoff {
namespace {

// Walks all control messages: a peer may send several, and of other kinds.
void collect(msghdr& message, std::span<OwnFd> places, Received& received) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int raw = -1;
      std::memcpy(&raw, CMSG_DATA(control) + i * sizeof raw, sizeof raw);
      OwnFd descriptor(raw);
      if (received.descriptors == places.size()) {
        received.descriptors_lost = true;
        continue;
      }
      places[received.descriptors++] = std::move(descriptor);
    }
  }
}

}  // namespace

void prepare_send(msghdr& message, iovec& vector, std::span<const std::byte> payload,
                  std::span<std::byte> control, std::span<const int> descriptors) {
  TCPMUX_CHECK(!payload.empty(), "a stream drops the descriptors of an empty payload");
  // sendmsg only reads the payload; iovec has no const.
  vector = {.iov_base = const_cast<std::byte*>(payload.data()), .iov_len = payload.size()};
  message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (descriptors.empty()) return;
  const std::size_t data_bytes = descriptors.size_bytes();
  TCPMUX_CHECK(descriptors.size() <= kDescriptorsMax && control.size() >= CMSG_SPACE(data_bytes),
               "the control buffer holds the descriptors");
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(data_bytes);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(data_bytes);
  std::memcpy(CMSG_DATA(header), descriptors.data(), data_bytes);
}

ReceiveCall::ReceiveCall(std::span<std::byte> payload)
    : vector_{.iov_base = payload.data(), .iov_len = payload.size()} {
  message_.msg_iov = &vector_;
  message_.msg_iovlen = 1;
  message_.msg_control = control_.bytes;
  message_.msg_controllen = sizeof control_.bytes;
}

Received ReceiveCall::finish(std::int64_t result, std::span<OwnFd> places) {
  Received received;
  if (result < 0) {
    const bool empty = result == -EAGAIN || result == -EWOULDBLOCK;
    received.kind = empty ? Received::Kind::kEmpty : Received::Kind::kError;
    received.error = empty ? 0 : static_cast<int>(-result);
    return received;
  }
  collect(message_, places, received);
  received.kind = result == 0 ? Received::Kind::kEnd : Received::Kind::kMessage;
  received.bytes = static_cast<std::size_t>(result);
  received.payload_truncated = (message_.msg_flags & MSG_TRUNC) != 0;
  received.descriptors_lost |= (message_.msg_flags & MSG_CTRUNC) != 0;
  return received;
}

}  // namespace tcpmux::handoff
