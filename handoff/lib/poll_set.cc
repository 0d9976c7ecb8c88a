#include "handoff/lib/poll_set.h"

#include <fcntl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/base/clock.h"

namespace tcpmux::handoff {

Status PollSet::open() {
  OwnFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno("epoll_create1");
  OwnFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) return fail_errno("timerfd_create");
  epoll_ = std::move(epoll);
  timer_ = std::move(timer);
  if (!add(timer_.get(), kTimer)) return fail_errno("epoll_ctl");
  return {};
}

Status PollSet::renew() {
  PollSet fresh;
  if (Status opened = fresh.open(); !opened) return opened;
  fresh.remove(fresh.timer_.get());  // it gets another number below
  if (::dup3(fresh.epoll_.get(), epoll_.get(), O_CLOEXEC) < 0 ||
      ::dup3(fresh.timer_.get(), timer_.get(), O_CLOEXEC) < 0)
    return fail_errno("dup3");
  if (!add(timer_.get(), kTimer)) return fail_errno("epoll_ctl");
  return {};
}

bool PollSet::add(int fd, std::uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void PollSet::remove(int fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void PollSet::set_timer(std::int64_t at_ns) {
  itimerspec when{};
  if (at_ns != kNever_ns) {
    at_ns = std::max<std::int64_t>(at_ns, 1);  // all zero would disarm it
    when.it_value.tv_sec = static_cast<time_t>(at_ns / kNanosPerSecond);
    when.it_value.tv_nsec = static_cast<long>(at_ns % kNanosPerSecond);
  }
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

int PollSet::wait(std::span<epoll_event> events, int timeout_ms) {
  return ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
}

}  // namespace tcpmux::handoff
