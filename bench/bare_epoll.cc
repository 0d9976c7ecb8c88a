// The bare loop on epoll: accepts until nobody waits, serves each connection on the spot, and hands
// over when the batch is full or it is about to sleep.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "bench/bare.h"

namespace bench {
namespace {

class Loop {
 public:
  Loop(int listener, int lane)
      : listener_(listener), lane_(lane), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (epoll_ < 0) die("epoll_create1");
    watch(listener_);
  }

  [[noreturn]] void run() {
    std::array<epoll_event, 256> events;
    for (;;) {
      const int count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
      if (count < 0 && errno != EINTR) die("epoll_wait");
      for (int i = 0; i < count; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_) {
          accept_all();
        } else {
          ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
          serve(fd);
        }
      }
      hand_over();
    }
  }

 private:
  void watch(int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
  }

  void accept_all() {
    for (;;) {
      const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (client >= 0) {
        serve(client);
      } else if (errno == EAGAIN) {
        return;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        die("accept4");
      }
    }
  }

  void serve(int client) {
    char line[kLineBytes];
    const ssize_t peeked = ::recv(client, line, sizeof line, MSG_PEEK | MSG_DONTWAIT);
    if (peeked < 0 && errno == EAGAIN) return watch(client);
    const std::size_t take = peeked > 0 ? line_bytes(line, static_cast<std::size_t>(peeked)) : 0;
    if (take == 0) {
      ::close(client);
      return;
    }
    ::recv(client, nullptr, take, MSG_TRUNC | MSG_DONTWAIT);
    ::send(client, kReply.data(), kReply.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    batch_.add(client);
    if (batch_.full()) hand_over();
  }

  void hand_over() { batch_.hand_over(lane_); }

  int listener_;
  int lane_;
  int epoll_;
  Batch batch_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const int listener = bench::open_listener(bench::port_from(argc, argv), SOCK_NONBLOCK);
  const bench::Receiver receiver = bench::start_receiver();
  bench::announce(listener, receiver);
  bench::Loop(listener, receiver.lane).run();
}
