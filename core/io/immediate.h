// What both engines do alike, on the spot: the immediate calls of the seam, and what an error of
// accept means.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <span>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/io/backend.h"

namespace tcpmux {

// A descriptor that is held only to be given up: at the descriptor limit it makes room for the one
// connection that is to be told so.
class ReserveDescriptor {
 public:
  bool held() const { return fd_.valid(); }
  void give_up() { fd_.reset(); }
  int get() const { return fd_.get(); }
  // False at the descriptor limit.
  bool acquire();

 private:
  OwnFd fd_;
};

class ImmediateCalls {
 public:
  ImmediateCalls(const ImmediateCalls&) = delete;
  ImmediateCalls& operator=(const ImmediateCalls&) = delete;

  void close(int fd);
  void shutdown_write(int fd);
  Endpoints endpoints(int fd);
  std::uint32_t queued_bytes(int fd);
  std::int64_t send_now(int fd, const msghdr* message);
  std::int64_t receive_now(int fd, msghdr* message);
  bool has_room_for(std::size_t descriptors);
  int accept_now(int fd);
  void dismiss(int fd, std::span<const char> bytes);
  Shed shed(int fd, std::span<const char> bytes);

 protected:
  ImmediateCalls() = default;
  ~ImmediateCalls() = default;
  Status acquire_reserve();
  // At the limit another thread may have been faster than shed(), or the limit was lowered. The
  // descriptor that was lost is not to be had again there, so whoever accepts takes it first.
  void restore_reserve() { reserve_.acquire(); }

 private:
  ReserveDescriptor reserve_;
};

enum class AcceptError : std::uint8_t {
  kNobodyWaits,
  kOfOneConnection,  // the next one may well succeed
  kOfListener,       // accepting ends
};
AcceptError classify_accept_error(int error);

// Whether calls on `fd` return EAGAIN instead of waiting. The flag lives in the open file
// description: every process that shares it sees the change.
void set_nonblocking(int fd, bool on);

}  // namespace tcpmux
