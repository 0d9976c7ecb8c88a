// What the kernel fact tests share: sockets on the loopback, descriptors in messages, children.
// Nothing here waits by the clock: it waits for a condition, and gives up after kDeadline_ms.
// Setting a test up must succeed, so a helper that cannot aborts with the errno.
#pragma once

#include <fcntl.h>
#include <linux/tcp.h>  // newer fields of tcp_info than netinet/tcp.h has
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/address.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/fd.h"

namespace tcpmux::kernel_test {

inline constexpr int kDeadline_ms = 30'000;

// ---- Waiting

// The events seen, which may be POLLERR and POLLHUP whatever was asked for; 0 at the deadline.
inline short wait_for(int fd, short events) {
  pollfd waiting{.fd = fd, .events = events, .revents = 0};
  int ready = 0;
  do {
    ready = ::poll(&waiting, 1, kDeadline_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 ? waiting.revents : short{0};
}

// For conditions that no descriptor announces.
template <class Condition>
bool eventually(Condition condition) {
  const std::int64_t deadline_ns = monotonic_ns() + kDeadline_ms * kNanosPerMilli;
  while (!condition()) {
    if (monotonic_ns() > deadline_ns) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

// ---- Pipes and Unix sockets

struct Pipe {
  OwnFd read_end;
  OwnFd write_end;
};

inline Pipe make_pipe() {
  int ends[2];
  TCPMUX_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "a test needs a pipe");
  return {.read_end = OwnFd(ends[0]), .write_end = OwnFd(ends[1])};
}

// True exactly when the last copy of the write end is closed and nothing is left to read.
inline bool ends(const Pipe& pipe) {
  char byte = 0;
  return wait_for(pipe.read_end.get(), POLLIN) != 0 && ::read(pipe.read_end.get(), &byte, 1) == 0;
}

// True when `write_end`, however it came here, is the other end of `pipe`.
inline bool leads_to(int write_end, const Pipe& pipe) {
  char byte = 0;
  return ::write(write_end, "x", 1) == 1 && wait_for(pipe.read_end.get(), POLLIN) != 0 &&
         ::read(pipe.read_end.get(), &byte, 1) == 1 && byte == 'x';
}

// A lane as the mux makes it: it writes to `sender`, and `receiver` is the backend's end.
struct Lane {
  OwnFd sender;
  OwnFd receiver;
};

inline Lane make_lane(int type = SOCK_SEQPACKET) {
  int ends[2];
  TCPMUX_CHECK(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0,
               "a test needs a socket pair");
  return {.sender = OwnFd(ends[0]), .receiver = OwnFd(ends[1])};
}

// A count that an ioctl tells of a socket: SIOCOUTQ, SIOCINQ.
inline int queue_bytes(int socket, unsigned long request) {
  int bytes = -1;
  TCPMUX_CHECK(::ioctl(socket, request, &bytes) == 0, "the socket tells the size of its queue");
  return bytes;
}

inline int option_of(int socket, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  TCPMUX_CHECK(::getsockopt(socket, level, name, &value, &size) == 0, "the option can be read");
  return value;
}

inline void set_option(int socket, int level, int name, int value) {
  TCPMUX_CHECK(::setsockopt(socket, level, name, &value, sizeof value) == 0,
               "the option can be set");
}

// ---- Descriptors in messages

// A message with descriptors, in memory that stays where it is while the kernel may read it.
class OutgoingMessage {
 public:
  OutgoingMessage(std::string_view payload, std::span<const int> fds)
      : payload_(payload), control_(CMSG_SPACE(fds.size_bytes())) {
    part_ = {.iov_base = payload_.data(), .iov_len = payload_.size()};
    header_.msg_iov = &part_;
    header_.msg_iovlen = 1;
    if (fds.empty()) return;
    header_.msg_control = control_.data();
    header_.msg_controllen = control_.size();
    cmsghdr* control = CMSG_FIRSTHDR(&header_);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(control), fds.data(), fds.size_bytes());
  }
  OutgoingMessage(const OutgoingMessage&) = delete;
  OutgoingMessage& operator=(const OutgoingMessage&) = delete;

  msghdr& header() { return header_; }
  iovec& part() { return part_; }
  std::string& payload() { return payload_; }
  void replace_first_fd(int fd) { std::memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header_)), &fd, sizeof fd); }

 private:
  std::string payload_;
  std::vector<std::byte> control_;
  iovec part_{};
  msghdr header_{};
};

// As sendmsg: the bytes sent, or -1 with errno.
inline ssize_t send_message(int socket, std::string_view payload, std::span<const int> fds = {},
                            int flags = MSG_DONTWAIT | MSG_NOSIGNAL) {
  OutgoingMessage message(payload, fds);
  return ::sendmsg(socket, &message.header(), flags);
}

struct Received {
  ssize_t result = -1;  // as recvmsg
  int error = 0;        // errno when result is -1
  int flags = 0;
  std::size_t control_length = 0;
  std::string payload;
  std::vector<OwnFd> fds;
};

inline constexpr std::size_t kMessageFdsMax = 253;  // SCM_MAX_FD

inline Received receive_message(int socket,
                                std::size_t control_size = CMSG_SPACE(kMessageFdsMax * sizeof(int)),
                                int flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC) {
  std::array<char, 4096> payload;
  std::vector<std::byte> control(control_size);
  iovec part{.iov_base = payload.data(), .iov_len = payload.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control_size > 0 ? control.data() : nullptr;
  header.msg_controllen = control_size;
  Received received;
  received.result = ::recvmsg(socket, &header, flags);
  if (received.result < 0) {
    received.error = errno;
    return received;
  }
  received.flags = header.msg_flags;
  received.control_length = header.msg_controllen;
  received.payload.assign(payload.data(), static_cast<std::size_t>(received.result));
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(item) + i * sizeof fd, sizeof fd);
      received.fds.emplace_back(fd);
    }
  }
  return received;
}

// ---- TCP on the loopback

inline Endpoint loopback(std::uint16_t port = 0) {
  Endpoint endpoint{.address = {.bytes = {127, 0, 0, 1}, .family = IpAddress::Family::kV4},
                    .port = port};
  return endpoint;
}

inline Endpoint loopback_v6(std::uint16_t port = 0) {
  Endpoint endpoint{.address = {.bytes = {}, .family = IpAddress::Family::kV6}, .port = port};
  endpoint.address.bytes[15] = 1;
  return endpoint;
}

// As bind and connect: 0, or the errno.
inline int bind_to(int socket, const Endpoint& endpoint) {
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(endpoint, address);
  return ::bind(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0 ? 0 : errno;
}
inline int connect_to(int socket, const Endpoint& endpoint) {
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(endpoint, address);
  return ::connect(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0 ? 0 : errno;
}

inline Endpoint local_endpoint(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  TCPMUX_CHECK(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0,
               "a bound socket has an address");
  return endpoint_from(address);
}
// Without a family when the socket has no peer.
inline Endpoint peer_endpoint(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  return endpoint_from(address);
}

inline OwnFd tcp_socket(int family = AF_INET) {
  OwnFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  TCPMUX_CHECK(socket.valid() || family != AF_INET, "a test needs a TCP socket");
  return socket;
}

struct Listener {
  OwnFd fd;
  Endpoint endpoint;
};

inline Listener make_listener(const Endpoint& at = loopback(), bool reuse_port = false) {
  Listener listener{.fd = tcp_socket(), .endpoint = {}};
  if (reuse_port) set_option(listener.fd.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  TCPMUX_CHECK(bind_to(listener.fd.get(), at) == 0, "a test needs a port of its own");
  TCPMUX_CHECK(::listen(listener.fd.get(), 128) == 0, "a bound socket listens");
  listener.endpoint = local_endpoint(listener.fd.get());
  return listener;
}

// Connected when it returns, whether it was accepted or not.
inline OwnFd make_client(const Endpoint& to) {
  OwnFd client = tcp_socket();
  TCPMUX_CHECK(connect_to(client.get(), to) == 0, "the loopback connects");
  return client;
}

inline tcp_info tcp_info_of(int socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  TCPMUX_CHECK(::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0,
               "a TCP socket tells about itself");
  return info;
}

// Connections that wait to be accepted. connect() returns before the last of the handshake's
// three segments has come to the listener, so a test waits for its number.
inline unsigned backlog_of(int listener) {
  return tcp_info_of(listener).tcpi_unacked;
}
inline bool wait_for_backlog(int listener, unsigned connections) {
  return eventually([&] { return backlog_of(listener) == connections; });
}

struct Connection {
  OwnFd client;
  OwnFd server;
};

// `client_buffer_bytes`: the client's SO_RCVBUF, which bounds what it can be sent unread.
inline Connection make_connection(int client_buffer_bytes = 0) {
  const Listener listener = make_listener();
  Connection connection{.client = tcp_socket(), .server = OwnFd()};
  if (client_buffer_bytes > 0)
    set_option(connection.client.get(), SOL_SOCKET, SO_RCVBUF, client_buffer_bytes);
  TCPMUX_CHECK(connect_to(connection.client.get(), listener.endpoint) == 0,
               "the loopback connects");
  TCPMUX_CHECK(wait_for(listener.fd.get(), POLLIN) != 0, "the connection arrives");
  connection.server.reset(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  TCPMUX_CHECK(connection.server.valid(), "a waiting connection is accepted");
  return connection;
}

inline bool send_text(int socket, std::string_view text, int flags = 0) {
  return ::send(socket, text.data(), text.size(), flags | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(text.size());
}

// Waits until exactly `bytes` are there to be read.
inline bool wait_for_bytes(int socket, int bytes) {
  return eventually([&] { return queue_bytes(socket, FIONREAD) == bytes; });
}

struct Stream {
  std::string text;
  int error = 0;  // what ended it: 0 for EOF or enough, ETIME for the deadline
  bool ended = false;
};

// Reads until `bytes` have come, or the stream ends.
inline Stream read_stream(int socket, std::size_t bytes = SIZE_MAX) {
  Stream stream;
  std::array<char, 4096> buffer;
  while (stream.text.size() < bytes && !stream.ended) {
    const std::size_t wanted = std::min(bytes - stream.text.size(), buffer.size());
    if (wait_for(socket, POLLIN) == 0) {
      stream.error = ETIME;
      return stream;
    }
    const ssize_t count = ::recv(socket, buffer.data(), wanted, MSG_DONTWAIT);
    if (count > 0) {
      stream.text.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      stream.ended = true;
      stream.error = count == 0 ? 0 : errno;
    }
  }
  return stream;
}

// ---- Children

// A forked process; killed and reaped with its owner. It never outlives the test: it dies with
// its parent, and by SIGALRM when it hangs.
class Child {
 public:
  // `body` returns the exit status. No GoogleTest inside: it would report to nobody.
  template <class Body>
  explicit Child(Body body) {
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    TCPMUX_CHECK(pid_ >= 0, "a test needs a child");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(125);
    ::alarm(2 * kDeadline_ms / 1000);
    ::_exit(body());
  }
  ~Child() {
    if (pid_ <= 0) return;
    kill(SIGKILL);
    wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void kill(int signal) const {
    TCPMUX_CHECK(::kill(pid_, signal) == 0, "a child that is not reaped takes signals");
  }
  // The status of waitpid. Reaped, unless WUNTRACED saw it stop.
  int wait(int options = 0) {
    int status = 0;
    pid_t seen = -1;
    do {
      seen = ::waitpid(pid_, &status, options);
    } while (seen < 0 && errno == EINTR);
    TCPMUX_CHECK(seen == pid_, "a child is reaped once");
    if (!WIFSTOPPED(status)) pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
};

// Runs `body`, which returns what went wrong or "", in a child whose limits, filters and user it
// may change. Returns the same.
template <class Body>
std::string in_child(Body body) {
  int report[2];
  TCPMUX_CHECK(::pipe2(report, O_CLOEXEC) == 0, "a test needs a pipe");
  OwnFd read_end(report[0]);
  OwnFd write_end(report[1]);
  Child child([&] {
    const std::string problem = body();
    const ssize_t written = ::write(write_end.get(), problem.data(), problem.size());
    return written == static_cast<ssize_t>(problem.size()) ? 0 : 1;
  });
  write_end.reset();
  std::string problem;
  std::array<char, 512> buffer;
  for (ssize_t count = 0; (count = ::read(read_end.get(), buffer.data(), buffer.size())) > 0;)
    problem.append(buffer.data(), static_cast<std::size_t>(count));
  const int status = child.wait();
  if (status != 0 && problem.empty())
    problem = "the child ended with wait status " + std::to_string(status);
  return problem;
}

inline std::string child_problem(const char* condition, int line) {
  const int error = errno;
  return "line " + std::to_string(line) + ": not so: " + condition + " (errno " +
         std::to_string(error) + ", " + std::strerror(error) + ")";
}

// In the body of in_child.
#define TCPMUX_CHILD_EXPECT(condition)                                                   \
  do {                                                                                   \
    if (!(condition)) return ::tcpmux::kernel_test::child_problem(#condition, __LINE__); \
  } while (false)

// ---- The descriptor limit (in a child only: the limit is the whole process's)

inline bool lower_fd_limit(rlim_t limit) {
  rlimit now{};
  if (::getrlimit(RLIMIT_NOFILE, &now) != 0) return false;
  now.rlim_cur = limit;
  return ::setrlimit(RLIMIT_NOFILE, &now) == 0;
}

// Fills the descriptor table up to a lowered soft limit, so that `room` are free.
class FullDescriptorTable {
 public:
  explicit FullDescriptorTable(unsigned room) {
    constexpr rlim_t kSpare = 32;
    OwnFd probe(::dup(STDERR_FILENO));
    TCPMUX_CHECK(probe.valid(), "the table has room before it is filled");
    limit_ = static_cast<rlim_t>(probe.get()) + kSpare;
    probe.reset();
    TCPMUX_CHECK(lower_fd_limit(limit_), "a soft limit can be lowered");
    fill();
    free(room);
  }

  void fill() {
    for (;;) {
      OwnFd filler(::dup(STDERR_FILENO));
      if (!filler.valid()) break;
      fillers_.push_back(std::move(filler));
    }
    TCPMUX_CHECK(errno == EMFILE, "only the limit ends it");
  }
  void free(unsigned count) {
    TCPMUX_CHECK(count <= fillers_.size(), "only fillers can be freed");
    fillers_.resize(fillers_.size() - count);
  }
  rlim_t limit() const { return limit_; }

 private:
  rlim_t limit_ = 0;
  std::vector<OwnFd> fillers_;
};

}  // namespace tcpmux::kernel_test
