#include "bench/bare.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bench {
namespace {

// Takes what comes until the other end is gone.
[[noreturn]] void receive_and_close(int lane) {
  char payload = 0;
  alignas(cmsghdr) std::byte control[CMSG_SPACE(kBatch * sizeof(int))];
  for (;;) {
    iovec vector{.iov_base = &payload, .iov_len = 1};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t received = ::recvmsg(lane, &message, MSG_CMSG_CLOEXEC);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) ::_exit(received < 0);
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    if (header == nullptr) continue;
    const std::size_t bytes = header->cmsg_len - CMSG_LEN(0);
    for (std::size_t offset = 0; offset < bytes; offset += sizeof(int)) {
      int socket = -1;
      std::memcpy(&socket, CMSG_DATA(header) + offset, sizeof socket);
      ::close(socket);
    }
  }
}

// For the end of the program, by a signal.
Receiver started;

// The receiver ends when the lane does; nobody else would wait for it.
void end(int) {
  ::close(started.lane);
  ::waitpid(started.process, nullptr, 0);
  ::_exit(0);
}

}  // namespace

void die(const char* what) {
  die(what, errno);
}

void die(const char* what, int error) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(error));
  std::exit(1);
}

std::uint16_t port_from(int argc, char** argv) {
  char* end = nullptr;
  const bool named = argc == 3 && std::strcmp(argv[1], "--port") == 0;
  const long port = named ? std::strtol(argv[2], &end, 10) : -1;
  if (!named || *end != '\0' || end == argv[2] || port < 0 || port > 65535) {
    std::fprintf(stderr, "usage: %s --port N   (0: any free port)\n", argv[0]);
    std::exit(2);
  }
  return static_cast<std::uint16_t>(port);
}

int open_listener(std::uint16_t port, int type_flags) {
  const rlimit descriptors{.rlim_cur = kDescriptorsMax, .rlim_max = kDescriptorsMax};
  if (::setrlimit(RLIMIT_NOFILE, &descriptors) < 0) die("setrlimit");
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | type_flags, 0);
  if (listener < 0) die("socket");
  const int on = 1;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on) < 0)
    die("TCP_DEFER_ACCEPT");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    die("bind");
  if (::listen(listener, 4096) < 0) die("listen");
  return listener;
}

std::size_t line_bytes(const char* bytes, std::size_t count) {
  const void* const end = std::memchr(bytes, '\n', count);
  if (end == nullptr) return 0;
  return static_cast<std::size_t>(static_cast<const char*>(end) - bytes) + 1;
}

Receiver start_receiver() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) die("socketpair");
  const pid_t process = ::fork();
  if (process < 0) die("fork");
  if (process == 0) {
    ::close(ends[0]);
    receive_and_close(ends[1]);
  }
  ::close(ends[1]);
  started = {.lane = ends[0], .process = process};
  ::signal(SIGTERM, end);
  ::signal(SIGINT, end);
  return started;
}

void announce(int listener, const Receiver& receiver) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  if (::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) < 0) die("getsockname");
  std::printf("listening on 127.0.0.1:%u, receiver %d\n", unsigned{ntohs(address.sin_port)},
              static_cast<int>(receiver.process));
  std::fflush(stdout);
}

Batch::Batch() : vector_{.iov_base = &payload_, .iov_len = 1} {
  message_.msg_iov = &vector_;
  message_.msg_iovlen = 1;
  message_.msg_control = control_;
  message_.msg_controllen = sizeof control_;
  cmsghdr* const header = CMSG_FIRSTHDR(&message_);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  sockets_ = reinterpret_cast<int*>(CMSG_DATA(header));
}

void Batch::hand_over(int lane) {
  if (count_ == 0) return;
  cmsghdr* const header = reinterpret_cast<cmsghdr*>(control_);
  header->cmsg_len = CMSG_LEN(count_ * sizeof(int));
  message_.msg_controllen = CMSG_SPACE(count_ * sizeof(int));
  while (::sendmsg(lane, &message_, MSG_NOSIGNAL) < 0)
    if (errno != EINTR) die("sendmsg");
  for (std::size_t i = 0; i < count_; ++i)
    ::close(sockets_[i]);
  count_ = 0;
}

}  // namespace bench
