// A small epoll loop for programs of one thread: descriptors, timers, signals.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace demo {

class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using Handler = std::function<void(std::uint32_t events)>;  // events as of epoll_wait

  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  ~EventLoop();

  // Calls `handler` whenever one of `events` holds (level-triggered).
  void watch(int fd, std::uint32_t events, Handler handler);
  void change(int fd, std::uint32_t events);
  // To be called before the descriptor is closed. A handler may remove itself or any other.
  void forget(int fd);

  // Calls `task` once, so much later.
  void after(std::chrono::milliseconds delay, std::function<void()> task);
  // Calls `handler` in the loop, not in a signal's context. The signal is blocked from then on.
  void on_signal(int number, std::function<void()> handler);

  void run();  // until stop()
  void stop() { running_ = false; }

 private:
  struct Watch {
    std::uint64_t serial;  // tells a watch from an earlier one of the same number
    std::shared_ptr<Handler> handler;
  };
  int run_timers();  // gives how long epoll may wait
  void dispatch(std::uint64_t tag, std::uint32_t events);

  int epoll_;
  bool running_ = false;
  std::uint32_t next_serial_ = 0;
  std::map<int, Watch> watches_;
  std::multimap<Clock::time_point, std::function<void()>> timers_;
  std::vector<int> signal_fds_;
};

}  // namespace demo
