#include "core/server/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace tcpmux {

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  OwnFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno("epoll_create1");
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

Status EventLoop::add(int fd, Handler handler) {
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll_ctl");
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return {};
}

void EventLoop::remove(int fd) {
  if (handlers_.erase(fd) == 0) return;
  TCPMUX_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) == 0,
               "a descriptor is removed from the loop before it is closed");
}

void EventLoop::add_tick(std::int64_t interval_ms, Handler handler) {
  const std::int64_t interval_ns = interval_ms * kNanosPerMilli;
  ticks_.push_back({interval_ns, monotonic_ns() + interval_ns, std::move(handler)});
}

int EventLoop::wait_ms() const {
  std::int64_t at_ns = kNever_ns;
  for (const Tick& tick : ticks_)
    at_ns = std::min(at_ns, tick.at_ns);
  if (at_ns == kNever_ns) return -1;
  const std::int64_t left_ns = std::max<std::int64_t>(at_ns - monotonic_ns(), 0);
  return static_cast<int>((left_ns + kNanosPerMilli - 1) / kNanosPerMilli);
}

void EventLoop::run_ticks() {
  const std::int64_t now_ns = monotonic_ns();
  for (std::size_t i = 0; i < ticks_.size(); ++i) {
    if (ticks_[i].at_ns > now_ns) continue;
    ticks_[i].at_ns = now_ns + ticks_[i].interval_ns;
    ticks_[i].handler();
  }
}

void EventLoop::run() {
  while (!stopped_) {
    std::array<epoll_event, 64> events;
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), wait_ms());
    TCPMUX_CHECK(count >= 0 || errno == EINTR, "epoll_wait on an epoll descriptor of our own");
    for (int i = 0; i < count && !stopped_; ++i) {
      const auto found = handlers_.find(events[static_cast<std::size_t>(i)].data.fd);
      if (found == handlers_.end()) continue;  // removed by a handler before it
      const std::shared_ptr<Handler> handler = found->second;
      (*handler)();
    }
    run_ticks();
  }
}

}  // namespace tcpmux
