// LoadIo on epoll, for where io_uring is refused. Connecting and sending are tried when they are
// asked for; what would have to wait goes on when epoll reports the socket, which is watched
// edge-triggered from connecting on. Receiving is tried when something was reported to be there.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/fd.h"
#include "tools/load/load_io.h"

namespace load {

class EpollIo {
 public:
  static constexpr int kSocketFlags = SOCK_NONBLOCK;

  static tcpmux::Result<std::unique_ptr<EpollIo>> create(std::uint32_t slots);

  void connect(std::uint32_t slot, int fd, Target target);
  void send(std::uint32_t slot, int fd, std::span<const char> bytes);
  void receive(std::uint32_t slot, int fd, std::span<char> into);
  void cancel(std::uint32_t slot, int fd);
  void close(std::uint32_t slot, int fd);
  std::size_t wait(std::span<Completion> completions, std::int64_t until_ns);

 private:
  // A slot's socket. The three operations are in flight exactly when their flags are set.
  struct Line {
    int fd = -1;
    bool connecting = false;
    bool sending = false;
    bool receiving = false;
    bool watched = false;
    bool readable = false;  // there may be something to receive
    bool ended = false;     // nothing more will be reported
    std::span<const char> to_send;
    std::span<char> into;
  };

  EpollIo(std::uint32_t slots, tcpmux::OwnFd epoll);

  void watch(std::uint32_t slot);
  void try_send(std::uint32_t slot);
  void try_receive(std::uint32_t slot);
  void end_connecting(std::uint32_t slot, int error);
  void end_sending(std::uint32_t slot, int error);
  void end_receiving(std::uint32_t slot, std::int32_t result);
  void complete(std::uint32_t slot, Operation operation, std::int32_t result);
  int poll(std::int64_t timeout_ns);
  void handle(const epoll_event& event);

  tcpmux::OwnFd epoll_;
  std::vector<Line> lines_;
  // Completed and not yet taken: a ring with room for all that can be in flight.
  std::vector<Completion> queue_;
  std::size_t queue_first_ = 0;
  std::size_t queue_size_ = 0;
  bool exact_timeouts_ = true;  // until the kernel refuses epoll_pwait2
  std::array<epoll_event, 64> events_{};
};

static_assert(LoadIo<EpollIo>);

}  // namespace load
