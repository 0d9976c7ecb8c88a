// Descriptors in control messages (SCM_RIGHTS, unix(7)). The only file that touches cmsghdr.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/fd.h"

namespace tcpmux::handoff {

inline constexpr std::size_t kDescriptorsMax = 253;  // SCM_MAX_FD of the kernel

// Control bytes for `Count` descriptors; what the kernel aligns, we align.
template <std::size_t Count>
struct ControlBuffer {
  static_assert(Count <= kDescriptorsMax);
  alignas(cmsghdr) std::byte bytes[CMSG_SPACE(Count * sizeof(int))];
};

// Fills `message` so that it sends `payload` (at least one byte: a stream drops the descriptors of
// an empty one) with `descriptors`. All that is passed in must stay as it is until it is sent.
void prepare_send(msghdr& message, iovec& vector, std::span<const std::byte> payload,
                  std::span<std::byte> control, std::span<const int> descriptors);

// The outcome of one recvmsg.
struct Received {
  enum class Kind { kMessage, kEmpty, kEnd, kError };
  Kind kind = Kind::kEmpty;
  int error = 0;                   // kError: errno
  std::size_t bytes = 0;           // kMessage
  std::size_t descriptors = 0;     // kMessage: how many of the caller's places are filled
  bool payload_truncated = false;  // MSG_TRUNC: the message was longer than the buffer
  bool descriptors_lost = false;   // MSG_CTRUNC, or more came than the caller has places for
};

// One recvmsg in two halves, for callers that make the call through an engine (core/io/backend.h):
//   ReceiveCall call(payload); result = recvmsg(fd, call.message(), ...); call.finish(result, ...)
class ReceiveCall {
 public:
  explicit ReceiveCall(std::span<std::byte> payload);
  ReceiveCall(const ReceiveCall&) = delete;
  ReceiveCall& operator=(const ReceiveCall&) = delete;
  msghdr* message() { return &message_; }
  // `result`: bytes, or a negative errno. Every descriptor that arrived is owned before anything
  // else is decided: the first ones by `places`, what exceeds them is closed.
  Received finish(std::int64_t result, std::span<OwnFd> places);

 private:
  ControlBuffer<kDescriptorsMax> control_;
  iovec vector_;
  msghdr message_{};
};

// Receives one message. Every descriptor that arrived is owned before anything else is decided:
// the first ones by `places`, what exceeds them is closed. Close-on-exec is set. `flags` are those
// of recvmsg, as MSG_DONTWAIT.
Received receive(int socket, std::span<std::byte> payload, std::span<OwnFd> places, int flags);

// Sends one message now; for the registry and for tests, not for the hot path. 0 or an errno.
int send_now(int socket, std::span<const std::byte> payload, std::span<const int> descriptors);

}  // namespace tcpmux::handoff
