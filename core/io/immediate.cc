#include "core/io/immediate.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "core/base/check.h"

namespace tcpmux {
namespace {

constexpr std::size_t kDiscardBytes = 64 * 1024;
constexpr int kDiscardsMax = 4;
constexpr std::size_t kDescriptorsAtOnceMax = 64;

// A close with unread bytes sends RST, which can destroy what we just said; so what has arrived is
// thrown away first, up to a bound.
void discard_arrived(int fd) {
  for (int i = 0; i < kDiscardsMax; ++i)
    if (::recv(fd, nullptr, kDiscardBytes, MSG_TRUNC | MSG_DONTWAIT) <= 0) return;
}

Endpoint name_of(int fd, int (*call)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  // ENOTCONN: the peer has reset the connection already.
  if (call(fd, reinterpret_cast<sockaddr*>(&address), &size) < 0) return {};
  return endpoint_from(address);
}

}  // namespace

bool ReserveDescriptor::acquire() {
  if (!held()) fd_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return held();
}

void ImmediateCalls::close(int fd) {
  if (::close(fd) < 0) TCPMUX_CHECK(errno != EBADF, "closed a descriptor that is not open");
}

void ImmediateCalls::shutdown_write(int fd) {
  if (::shutdown(fd, SHUT_WR) < 0)
    TCPMUX_CHECK(errno != EBADF && errno != ENOTSOCK, "shut down what is no socket");
}

Endpoints ImmediateCalls::endpoints(int fd) {
  return {.source = name_of(fd, ::getpeername), .destination = name_of(fd, ::getsockname)};
}

std::uint32_t ImmediateCalls::queued_bytes(int fd) {
  int bytes = 0;
  TCPMUX_CHECK(::ioctl(fd, SIOCINQ, &bytes) == 0, "a Unix socket tells how much waits in it");
  return static_cast<std::uint32_t>(bytes);
}

std::int64_t ImmediateCalls::send_now(int fd, const msghdr* message) {
  for (;;) {
    const ssize_t sent = ::sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno != EINTR) return -errno;
  }
}

std::int64_t ImmediateCalls::receive_now(int fd, msghdr* message) {
  for (;;) {
    const ssize_t received = ::recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received >= 0) return received;
    if (errno != EINTR) return -errno;
  }
}

// accept4 has no MSG_DONTWAIT, and the io_uring engine's listeners are in blocking mode: a
// connection that somebody else took since would leave us waiting.
int ImmediateCalls::accept_now(int listener) {
  const int flags = ::fcntl(listener, F_GETFL);
  TCPMUX_CHECK(flags >= 0, "a listener is an open descriptor");
  const bool blocking = (flags & O_NONBLOCK) == 0;
  if (blocking) ::fcntl(listener, F_SETFL, flags | O_NONBLOCK);
  const int accepted = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  const int error = errno;
  if (blocking) ::fcntl(listener, F_SETFL, flags);
  return accepted >= 0 ? accepted : -error;
}

// By having them for a moment. Another thread may take what we let go, but no more than the
// moment's.
bool ImmediateCalls::has_room_for(std::size_t descriptors) {
  std::array<OwnFd, kDescriptorsAtOnceMax> taken;
  TCPMUX_CHECK(descriptors <= taken.size(), "no message carries so many");
  if (!reserve_.acquire()) return descriptors == 0;
  for (std::size_t i = 0; i < descriptors; ++i) {
    taken[i].reset(::fcntl(reserve_.get(), F_DUPFD_CLOEXEC, 0));
    if (!taken[i].valid()) return false;
  }
  return true;
}

void ImmediateCalls::dismiss(int fd, std::span<const char> bytes) {
  discard_arrived(fd);
  // Best effort: a peer that is gone, or does not read, is closed all the same.
  if (::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
    ::shutdown(fd, SHUT_WR);
  discard_arrived(fd);
}

Shed ImmediateCalls::shed(int fd, std::span<const char> bytes) {
  if (!reserve_.acquire()) return Shed::kNoDescriptor;
  reserve_.give_up();
  const int accepted = accept_now(fd);
  if (accepted >= 0) {
    OwnFd connection(accepted);
    dismiss(connection.get(), bytes);
  }
  reserve_.acquire();  // where another thread was faster: the next accept() tries again
  if (accepted >= 0) return Shed::kOne;
  switch (classify_accept_error(-accepted)) {
    case AcceptError::kNobodyWaits:
      return Shed::kNobodyWaits;
    case AcceptError::kOfOneConnection:
      return Shed::kOne;
    case AcceptError::kOfListener:
      return Shed::kNoDescriptor;
  }
  return Shed::kNoDescriptor;
}

Status ImmediateCalls::acquire_reserve() {
  if (reserve_.acquire()) return {};
  return fail_errno("open /dev/null, to keep a descriptor in reserve");
}

AcceptError classify_accept_error(int error) {
  switch (error) {
    case EAGAIN:
      return AcceptError::kNobodyWaits;
    // accept(2): Linux passes errors that are pending on the new socket. EOPNOTSUPP and EPERM are
    // in its list too, but a listener of the wrong type and a security module give them for every
    // call, and to try again at once would be to spin.
    case EINTR:
    case ECONNABORTED:
    case ECONNRESET:
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ETIMEDOUT:
      return AcceptError::kOfOneConnection;
    default:
      return AcceptError::kOfListener;
  }
}

void set_nonblocking(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  TCPMUX_CHECK(flags >= 0, "a listener is an open descriptor");
  const int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted != flags) ::fcntl(fd, F_SETFL, wanted);
}

}  // namespace tcpmux
