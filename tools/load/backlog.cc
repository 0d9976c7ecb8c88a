#include "tools/load/backlog.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/fd.h"
#include "tools/load/dialogue.h"

namespace load {
namespace {

constexpr timespec kNap{.tv_sec = 0, .tv_nsec = tcpmux::kNanosPerMilli / 4};
// Of a connect: the kernel answers at once where there is room, and a SYN that it dropped is only
// repeated after a second.
constexpr int kConnect_ms = 800;

struct Client {
  tcpmux::OwnFd socket;
  Dialogue dialogue;
  bool replied = false;  // there is something to read
};

// A stopped process goes on, whatever happens.
class Stopped {
 public:
  explicit Stopped(pid_t process) : process_(process), done_(stop_process(process)) {}
  ~Stopped() { go_on(); }
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;

  bool done() const { return done_; }
  void go_on() { ::kill(process_, SIGCONT); }

 private:
  pid_t process_;
  bool done_;
};

class Backlog {
 public:
  Backlog(const Options& options, const Script& script, const Dialer& dialer,
          const std::atomic<bool>& stop)
      : options_(options),
        script_(script),
        dialer_(dialer),
        stop_(stop),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)),
        clients_(options.connections) {
    TCPMUX_CHECK(epoll_.valid(), "epoll_create1 needs one descriptor");
  }

  tcpmux::Status queue_up() {
    for (std::uint32_t i = 0; i < clients_.size(); ++i)
      if (const auto begun = begin(i); !begun) return begun;
    return {};
  }

  // Gives the time at which the last reply was seen, or at which patience ended.
  std::int64_t wait_for_replies() {
    std::array<epoll_event, 1024> events;
    const std::int64_t deadline_ns =
        tcpmux::monotonic_ns() + options_.timeout_ms * tcpmux::kNanosPerMilli;
    std::int64_t last_ns = 0;
    for (std::size_t seen = 0; seen < clients_.size() && last_ns < deadline_ns && !stop_.load();) {
      ::nanosleep(&kNap, nullptr);
      const int count =
          ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
      last_ns = tcpmux::monotonic_ns();
      for (int i = 0; i < count; ++i)
        clients_[events[static_cast<std::size_t>(i)].data.u32].replied = true;
      seen += static_cast<std::size_t>(std::max(count, 0));
    }
    return last_ns;
  }

  void judge(Tally& tally) {
    for (Client& client : clients_) {
      const Outcome outcome = client.replied ? read_reply(client) : Outcome::kTimedOut;
      ++tally.started;
      tally.count(Kind::kHandshake, outcome);
      if (outcome == Outcome::kDenied) tally.count_denial(client.dialogue.reply());
      client.socket.reset();
    }
  }

 private:
  tcpmux::Status begin(std::uint32_t index) {
    Client& client = clients_[index];
    const int fd = dialer_.make_socket(index, SOCK_NONBLOCK);
    if (fd < 0) return tcpmux::fail("no socket for connection " + std::to_string(index), -fd);
    client.socket.reset(fd);
    const Step step = client.dialogue.begin(script_, Kind::kHandshake, index);
    if (::connect(fd, dialer_.target(), dialer_.target_size()) < 0 && errno != EINPROGRESS)
      return tcpmux::fail_errno("connection " + std::to_string(index) + " of the backlog");
    pollfd connected{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&connected, 1, kConnect_ms) != 1)
      return tcpmux::fail("the server's backlog has no room for more than " +
                          std::to_string(index) +
                          " connections: give a smaller --backlog, or raise the server's "
                          "(net.core.somaxconn bounds it)");
    if (::send(fd, step.bytes.data(), step.bytes.size(), MSG_NOSIGNAL) < 0)
      return tcpmux::fail_errno("connection " + std::to_string(index) + " of the backlog");
    client.dialogue.on_connected();
    epoll_event event{.events = EPOLLIN | EPOLLET | EPOLLONESHOT, .data = {.u32 = index}};
    TCPMUX_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0,
                 "a connected socket can be watched");
    return {};
  }

  Outcome read_reply(Client& client) {
    std::array<char, 1024> bytes;
    for (;;) {
      const ssize_t count = ::recv(client.socket.get(), bytes.data(), bytes.size(), 0);
      if (count < 0 && errno == EAGAIN) {
        pollfd readable{.fd = client.socket.get(), .events = POLLIN, .revents = 0};
        if (::poll(&readable, 1, static_cast<int>(options_.timeout_ms)) != 1)
          return Outcome::kTimedOut;
        continue;
      }
      const Step step = count < 0    ? client.dialogue.on_error(errno)
                        : count == 0 ? client.dialogue.on_end()
                                     : client.dialogue.on_received(
                                           std::span(bytes).first(static_cast<std::size_t>(count)));
      if (step.what == Step::What::kFinish) return step.outcome;
    }
  }

  const Options& options_;
  const Script& script_;
  const Dialer& dialer_;
  const std::atomic<bool>& stop_;
  tcpmux::OwnFd epoll_;
  std::vector<Client> clients_;
};

}  // namespace

tcpmux::Result<Measured> run_backlog(const Options& options, const Script& script,
                                     const Dialer& dialer, const std::atomic<bool>& stop) {
  Backlog backlog(options, script, dialer, stop);
  Stopped server(options.stop);
  if (!server.done())
    return tcpmux::fail("process " + std::to_string(options.stop) +
                        " cannot be stopped: is it there, and ours?");
  if (const auto queued = backlog.queue_up(); !queued) return std::unexpected(queued.error());
  const CostMeter meter(options.cpu_of);
  Measured measured;
  const std::int64_t begin_ns = tcpmux::monotonic_ns();
  server.go_on();
  measured.elapsed_ns = backlog.wait_for_replies() - begin_ns;
  backlog.judge(measured.tally);
  meter.read(measured);
  return measured;
}

}  // namespace load
