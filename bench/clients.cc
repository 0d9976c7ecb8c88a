#include "bench/clients.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace bench {
namespace {

constexpr std::uint32_t kFirstSource = 0x7F000002;  // 127.0.0.2
constexpr std::uint32_t kRead = EPOLLIN | EPOLLRDHUP | EPOLLET;
constexpr int kPoll_ms = 100;

sockaddr_in address_of(std::uint32_t host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  address.sin_port = htons(port);
  return address;
}

}  // namespace

const char* to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::kServed:
      return "served";
    case Outcome::kNotConnected:
      return "not_connected";
    case Outcome::kRefused:
      return "refused";
    case Outcome::kWrongReply:
      return "wrong_reply";
    case Outcome::kEndedEarly:
      return "ended_early";
    case Outcome::kReset:
      return "reset";
    case Outcome::kTimedOut:
      return "timed_out";
  }
  return "?";
}

Clients::Clients(const ClientOptions& options)
    : options_(options), epoll_(::epoll_create1(EPOLL_CLOEXEC)), clients_(options.at_once) {
  TCPMUX_CHECK(epoll_.valid(), "epoll_create1 needs one descriptor");
}

std::uint64_t Clients::finished() const {
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

// --- closed loop ---

void Clients::run(std::uint64_t count, std::int64_t until_ns) {
  begun_max_ = begun_ + count;
  until_ns_ = until_ns;
  now_ns_ = tcpmux::monotonic_ns();
  for (std::uint32_t i = 0; i < clients_.size() && begun_ < begun_max_; ++i)
    begin(i);
  while (active_ > 0)
    poll();
}

void Clients::poll() {
  std::array<epoll_event, 256> events;
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), kPoll_ms);
  TCPMUX_CHECK(count >= 0 || errno == EINTR, "epoll_wait fails only by a signal");
  now_ns_ = tcpmux::monotonic_ns();
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    handle(event.data.u32, event.events);
  }
  if (now_ns_ >= expire_at_ns_) expire();
}

void Clients::expire() {
  expire_at_ns_ = now_ns_ + kPoll_ms * tcpmux::kNanosPerMilli;
  for (std::uint32_t i = 0; i < clients_.size(); ++i)
    if (clients_[i].socket.valid() && clients_[i].deadline_ns <= now_ns_)
      finish(i, Outcome::kTimedOut);
}

void Clients::begin(std::uint32_t index) {
  Client& client = clients_[index];
  ++begun_;
  ++active_;
  client.has_asked = false;
  client.read_bytes = 0;
  client.deadline_ns = now_ns_ + options_.timeout_ns;
  if (!connect(client)) return finish(index, Outcome::kNotConnected);
  // Over loopback a connection is there when connect() returns, and the line can go at once.
  watch(index, ask(index) ? kRead : kRead | EPOLLOUT, EPOLL_CTL_ADD);
}

bool Clients::connect(Client& client) {
  client.socket.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = client.socket.get();
  if (fd < 0) return false;
  const int on = 1;
  ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  const auto turn = static_cast<std::uint32_t>(begun_ % options_.sources);
  const sockaddr_in from = address_of(kFirstSource + turn, 0);
  const sockaddr_in to = address_of(INADDR_LOOPBACK, options_.port);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) < 0) return false;
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 ||
         errno == EINPROGRESS;
}

// False when the line cannot be sent now; why, the next event tells.
bool Clients::ask(std::uint32_t index) {
  Client& client = clients_[index];
  const std::string& line = options_.line;
  const ssize_t sent = ::send(client.socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
  client.has_asked = sent == static_cast<ssize_t>(line.size());
  return client.has_asked;
}

void Clients::watch(std::uint32_t index, std::uint32_t events, int operation) {
  epoll_event event{.events = events, .data = {.u32 = index}};
  TCPMUX_CHECK(::epoll_ctl(epoll_.get(), operation, clients_[index].socket.get(), &event) == 0,
               "a connected socket can be watched");
}

void Clients::handle(std::uint32_t index, std::uint32_t events) {
  Client& client = clients_[index];
  if (!client.socket.valid()) return;
  if (!client.has_asked) {
    if ((events & EPOLLERR) != 0 || !ask(index)) finish(index, Outcome::kNotConnected);
    return;
  }
  // RDHUP: the FIN came, so all that was before it is there to be read at once.
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) read(index, (events & EPOLLRDHUP) != 0);
}

void Clients::read(std::uint32_t index, bool at_end) {
  Client& client = clients_[index];
  std::array<char, 1024> bytes;
  const ssize_t count = ::recv(client.socket.get(), bytes.data(), bytes.size(), 0);
  if (count < 0) {
    if (errno != EAGAIN) finish(index, Outcome::kReset);
    return;
  }
  const auto got = static_cast<std::size_t>(count);
  const std::string_view expected = std::string_view(options_.reply).substr(client.read_bytes);
  if (got > expected.size() || !std::equal(bytes.begin(), bytes.begin() + count, expected.begin()))
    return finish(index, client.read_bytes == 0 && bytes[0] == '-' ? Outcome::kRefused
                                                                   : Outcome::kWrongReply);
  client.read_bytes += static_cast<std::uint32_t>(got);
  if (got > 0 && !at_end) return;
  finish(index,
         client.read_bytes == options_.reply.size() ? Outcome::kServed : Outcome::kEndedEarly);
}

void Clients::finish(std::uint32_t index, Outcome outcome) {
  Client& client = clients_[index];
  ++counts_[static_cast<std::size_t>(outcome)];
  --active_;
  if (client.socket.valid()) {
    const linger reset{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(client.socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    client.socket.reset();
  }
  if (begun_ < begun_max_ && now_ns_ < until_ns_) begin(index);
}

// --- from a backlog ---

void Clients::queue_up() {
  now_ns_ = tcpmux::monotonic_ns();
  for (std::uint32_t i = 0; i < clients_.size(); ++i)
    begin(i);
}

// The clients share a processor with the backend, and what they do while the server runs would be
// measured as the server's slowness: so each reply is seen once and not read, and we sleep by the
// clock, so that the server never has to wake us.
std::int64_t Clients::wait_for_replies() {
  for (std::uint32_t i = 0; i < clients_.size(); ++i)
    if (clients_[i].socket.valid()) watch(i, EPOLLIN | EPOLLET | EPOLLONESHOT, EPOLL_CTL_MOD);
  std::array<epoll_event, 1024> events;
  const std::int64_t deadline_ns = tcpmux::monotonic_ns() + options_.timeout_ns;
  std::int64_t last_ns = 0;
  for (std::uint32_t seen = 0; seen < active_ && last_ns < deadline_ns;) {
    const timespec nap{.tv_sec = 0, .tv_nsec = tcpmux::kNanosPerMilli / 4};
    ::nanosleep(&nap, nullptr);
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    last_ns = tcpmux::monotonic_ns();
    seen += static_cast<std::uint32_t>(std::max(count, 0));
  }
  return last_ns;
}

void Clients::read_replies() {
  for (std::uint32_t i = 0; i < clients_.size(); ++i)
    if (clients_[i].socket.valid()) watch(i, kRead, EPOLL_CTL_MOD);
  while (active_ > 0)
    poll();
}

}  // namespace bench
