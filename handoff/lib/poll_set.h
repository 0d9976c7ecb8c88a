// The handle's one pollable descriptor: an epoll set of registry, lanes and a timer.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <span>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux::handoff {

class PollSet {
 public:
  static constexpr std::uint64_t kTimer = UINT64_MAX;  // the tag of the timer's event

  Status open();
  // After fork(): the epoll set and the timer are shared with the parent, so that what one adds or
  // takes the other sees. Puts new and empty ones in their place, under the same numbers.
  Status renew();

  int descriptor() const { return epoll_.get(); }
  [[nodiscard]] bool add(int fd, std::uint64_t tag);
  // Must precede the close: the set watches the open file, of which the mux and forked siblings
  // hold copies, so that closing ours alone would not take it out.
  void remove(int fd);

  // The timer's event comes, and stays, from `at_ns` (monotonic) on; kNever_ns: not at all.
  void set_timer(std::int64_t at_ns);

  // As epoll_wait: how many of `events` are filled, or -1 and errno.
  int wait(std::span<epoll_event> events, int timeout_ms);

 private:
  OwnFd epoll_;
  OwnFd timer_;
};

}  // namespace tcpmux::handoff
