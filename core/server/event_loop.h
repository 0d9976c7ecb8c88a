// The steward's loop: level-triggered epoll, a handler for each descriptor, and handlers for times.
// Not for the hot path; it may allocate.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux {

class EventLoop {
 public:
  using Handler = std::function<void()>;

  static Result<std::unique_ptr<EventLoop>> create();

  // `handler` runs whenever `fd` is readable or has ended. The descriptor stays the caller's, who
  // calls remove() before closing it; that may happen inside a handler.
  Status add(int fd, Handler handler);
  void remove(int fd);
  // What wakes the handler up from now on, beside the end of both directions, which always does.
  struct Interest {
    bool readable = true;
    bool writable = false;
  };
  void wait_for(int fd, Interest interest);
  // `handler` runs about every `interval_ms`.
  void add_tick(std::int64_t interval_ms, Handler handler);
  // `handler` runs when the time (monotonic) has come that `at_ns` tells, which is asked before
  // each wait; kNever_ns: nothing is due.
  void add_deadline(std::function<std::int64_t()> at_ns, Handler handler);

  void run();  // until stop()
  void stop() { stopped_ = true; }

 private:
  struct Deadline {
    std::function<std::int64_t()> at_ns;
    Handler handler;
  };
  explicit EventLoop(OwnFd epoll) : epoll_(std::move(epoll)) {}
  int wait_ms() const;
  void run_what_is_due();

  OwnFd epoll_;
  // Shared, so that a handler that removes itself lives until it returns.
  std::unordered_map<int, std::shared_ptr<Handler>> handlers_;
  std::vector<Deadline> deadlines_;
  bool stopped_ = false;
};

}  // namespace tcpmux
