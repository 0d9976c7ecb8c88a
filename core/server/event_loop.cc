#include "core/server/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

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

void EventLoop::wait_for(int fd, Interest interest) {
  const std::uint32_t wanted = (interest.readable ? std::uint32_t{EPOLLIN} : 0u) |
                               (interest.writable ? std::uint32_t{EPOLLOUT} : 0u);
  epoll_event event{.events = wanted, .data = {.fd = fd}};
  TCPMUX_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0,
               "only a descriptor that was added is waited for");
}

void EventLoop::add_tick(std::int64_t interval_ms, Handler handler) {
  const std::int64_t interval_ns = interval_ms * kNanosPerMilli;
  const auto next_ns = std::make_shared<std::int64_t>(monotonic_ns() + interval_ns);
  add_deadline([next_ns] { return *next_ns; },
               [next_ns, interval_ns, work = std::move(handler)] {
                 *next_ns = monotonic_ns() + interval_ns;
                 work();
               });
}

void EventLoop::add_deadline(std::function<std::int64_t()> at_ns, Handler handler) {
  deadlines_.push_back({std::move(at_ns), std::move(handler)});
}

int EventLoop::wait_ms() const {
  std::int64_t next_ns = kNever_ns;
  for (const Deadline& deadline : deadlines_)
    next_ns = std::min(next_ns, deadline.at_ns());
  if (next_ns == kNever_ns) return -1;
  const std::int64_t left_ns = std::max<std::int64_t>(next_ns - monotonic_ns(), 0);
  const std::int64_t left_ms = (left_ns + kNanosPerMilli - 1) / kNanosPerMilli;
  return static_cast<int>(std::min<std::int64_t>(left_ms, INT32_MAX));
}

void EventLoop::run_what_is_due() {
  const std::int64_t now_ns = monotonic_ns();
  for (std::size_t i = 0; i < deadlines_.size(); ++i)
    if (deadlines_[i].at_ns() <= now_ns) deadlines_[i].handler();
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
    run_what_is_due();
  }
}

}  // namespace tcpmux
