#include "tools/demo/event_loop.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace demo {
namespace {

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// An event that was waiting when its descriptor was closed must not reach the next one that is
// given the same number; hence the serial.
epoll_event make_event(int fd, std::uint64_t serial, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = serial << 32 | static_cast<std::uint32_t>(fd);
  return event;
}

}  // namespace

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (epoll_ < 0) throw_errno("epoll_create1");
}

EventLoop::~EventLoop() {
  for (const int fd : signal_fds_)
    ::close(fd);
  ::close(epoll_);
}

void EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
  const std::uint32_t serial = ++next_serial_;
  epoll_event event = make_event(fd, serial, events);
  if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) throw_errno("epoll_ctl");
  watches_[fd] = {serial, std::make_shared<Handler>(std::move(handler))};
}

void EventLoop::change(int fd, std::uint32_t events) {
  epoll_event event = make_event(fd, watches_.at(fd).serial, events);
  if (::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event) < 0) throw_errno("epoll_ctl");
}

void EventLoop::forget(int fd) {
  if (watches_.erase(fd) > 0) ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::after(std::chrono::milliseconds delay, std::function<void()> task) {
  timers_.emplace(Clock::now() + delay, std::move(task));
}

void EventLoop::on_signal(int number, std::function<void()> handler) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, number);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  const int fd = ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) throw_errno("signalfd");
  signal_fds_.push_back(fd);
  watch(fd, EPOLLIN, [fd, handler = std::move(handler)](std::uint32_t) {
    signalfd_siginfo info;
    while (::read(fd, &info, sizeof info) == sizeof info)
      handler();
  });
}

void EventLoop::run() {
  running_ = true;
  std::array<epoll_event, 64> events;
  while (running_) {
    const int count = ::epoll_wait(epoll_, events.data(), events.size(), run_timers());
    if (count < 0 && errno != EINTR) throw_errno("epoll_wait");
    for (int i = 0; i < count && running_; ++i)
      dispatch(events[static_cast<std::size_t>(i)].data.u64,
               events[static_cast<std::size_t>(i)].events);
  }
}

int EventLoop::run_timers() {
  while (!timers_.empty() && timers_.begin()->first <= Clock::now()) {
    const std::function<void()> task = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    task();
  }
  if (!running_) return 0;
  if (timers_.empty()) return -1;
  const auto rest =
      std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now());
  return static_cast<int>(std::clamp<std::chrono::milliseconds::rep>(rest.count(), 0, 60'000));
}

void EventLoop::dispatch(std::uint64_t tag, std::uint32_t events) {
  const auto found = watches_.find(static_cast<int>(tag & 0xFFFFFFFF));
  if (found == watches_.end() || found->second.serial != tag >> 32) return;
  const std::shared_ptr<Handler> keep = found->second.handler;  // it may forget itself
  (*keep)(events);
}

}  // namespace demo
