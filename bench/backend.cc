// bench_backend: the one backend of all comparisons, so that whatever stands before it is measured
// with the same program behind it. It serves two names: "discard" closes at once, "echo" sends back
// what comes.
//
//   --registry PATH   takes sockets from tcpmuxd
//   --listen PORT     accepts on 127.0.0.1 itself, reads the request line and says "+": what stands
//                     behind a proxy, and the direct connection
//
// Says "serving" or "listening on 127.0.0.1:PORT" on stdout when it is ready. One thread; a
// connection that has bytes to send back is not read, so each holds at most kBufferBytes.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <tcpmux/backend.hpp>
#include <unordered_map>

namespace bench {
namespace {

constexpr std::size_t kBufferBytes = 256 * 1024;
constexpr std::size_t kFirstBytes = 512;  // of a buffer, until its session begins
constexpr std::string_view kReply = "+\r\n";

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "bench_backend: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) die("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) < 0) die("setrlimit");
}

class Poll {
 public:
  Poll() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (epoll_ < 0) die("epoll_create1");
  }
  void add(int fd, std::uint32_t events) { control(EPOLL_CTL_ADD, fd, events); }
  void change(int fd, std::uint32_t events) { control(EPOLL_CTL_MOD, fd, events); }
  template <class Handler>
  [[noreturn]] void run(Handler&& handler) {
    std::array<epoll_event, 64> events;
    for (;;) {
      const int count = ::epoll_wait(epoll_, events.data(), events.size(), -1);
      if (count < 0 && errno != EINTR) die("epoll_wait");
      for (int i = 0; i < count; ++i)
        handler(events[static_cast<std::size_t>(i)].data.fd);
    }
  }

 private:
  void control(int operation, int fd, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_, operation, fd, &event) < 0) die("epoll_ctl");
  }
  int epoll_;
};

// A client from its first byte, or from its handoff, to its end. Owns its socket.
class Connection {
 public:
  Connection(int socket, bool in_session) : socket_(socket), in_session_(in_session) {
    buffer_.resize(kFirstBytes);
    if (in_session) begin_session();
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { ::close(socket_); }

  // Goes as far as it can without waiting; false when the connection is over.
  bool advance() {
    while (unsent() > 0 || receive()) {
      if (!in_session_ && !answer_line()) return false;
      if (in_session_ && !send_back()) return false;
      if (unsent() > 0) return true;  // waits for the client to read
    }
    return !ended_;
  }
  // What it waits for.
  std::uint32_t events() const { return unsent() > 0 ? EPOLLOUT : EPOLLIN; }

 private:
  std::size_t unsent() const { return in_session_ ? filled_ - sent_ : 0; }

  // False when there is nothing now, or never again.
  bool receive() {
    const ssize_t got = ::recv(socket_, buffer_.data() + filled_, buffer_.size() - filled_, 0);
    if (got > 0) {
      filled_ += static_cast<std::size_t>(got);
      return true;
    }
    ended_ = got == 0 || (errno != EAGAIN && errno != EINTR);
    return false;
  }

  // What comes back in pieces is not to wait for acknowledgements: a proxy's come late.
  void begin_session() {
    in_session_ = true;
    buffer_.resize(kBufferBytes);
    const int on = 1;
    if (::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) die("TCP_NODELAY");
  }

  // False when the connection is over with it.
  bool answer_line() {
    const std::string_view bytes(buffer_.data(), filled_);
    const std::size_t end = bytes.find("\r\n");
    if (end == std::string_view::npos) return filled_ < buffer_.size();
    // It fits, because nothing was sent before; and a client that has gone shows when it is read.
    ::send(socket_, kReply.data(), kReply.size(), MSG_NOSIGNAL);
    if (end != 4 || ::strncasecmp(buffer_.data(), "echo", 4) != 0) return false;
    sent_ = end + 2;
    begin_session();
    return true;
  }

  bool send_back() {
    if (unsent() > 0) {
      const ssize_t put = ::send(socket_, buffer_.data() + sent_, unsent(), MSG_NOSIGNAL);
      if (put < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (put > 0) sent_ += static_cast<std::size_t>(put);
    }
    if (unsent() == 0) filled_ = sent_ = 0;
    return true;
  }

  int socket_;
  bool in_session_;
  bool ended_ = false;
  std::string buffer_;
  std::size_t filled_ = 0;
  std::size_t sent_ = 0;
};

class Connections {
 public:
  explicit Connections(Poll& poll) : poll_(poll) {}
  void add(int socket, bool in_session) {
    auto connection = std::make_unique<Connection>(socket, in_session);
    if (!connection->advance()) return;
    poll_.add(socket, connection->events());
    open_[socket] = std::move(connection);
  }
  void advance(int socket) {
    Connection& connection = *open_.at(socket);
    const std::uint32_t before = connection.events();
    if (!connection.advance()) {
      open_.erase(socket);
    } else if (connection.events() != before) {
      poll_.change(socket, connection.events());
    }
  }

 private:
  Poll& poll_;
  std::unordered_map<int, std::unique_ptr<Connection>> open_;
};

void take_all(tcpmux::Backend& backend, Connections& connections) {
  tcpmux::Client client;
  tcpmux_result result = TCPMUX_OK;
  while (result == TCPMUX_OK || result == TCPMUX_LOST) {
    result = backend.try_accept(client);
    if (result != TCPMUX_OK) continue;
    if (client.service() == "echo") {
      connections.add(client.release(), true);
    } else {
      client.close();
    }
  }
}

[[noreturn]] void serve_mux(const tcpmux::BackendOptions& options) {
  tcpmux::Backend backend({"discard", "echo"}, options);
  Poll poll;
  Connections connections(poll);
  poll.add(backend.descriptor(), EPOLLIN);
  std::puts("serving");
  std::fflush(stdout);
  poll.run([&](int fd) {
    if (fd == backend.descriptor()) return take_all(backend, connections);
    connections.advance(fd);
  });
}

int open_listener(std::uint16_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) die("socket");
  const int on = 1;
  if (::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) die("SO_REUSEADDR");
  if (::setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on) < 0)
    die("TCP_DEFER_ACCEPT");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) < 0) die("bind");
  if (::listen(listener, 4096) < 0) die("listen");
  if (::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) < 0) die("getsockname");
  std::printf("listening on 127.0.0.1:%u\n", unsigned{ntohs(address.sin_port)});
  std::fflush(stdout);
  return listener;
}

[[noreturn]] void serve_port(std::uint16_t port) {
  const int listener = open_listener(port);
  Poll poll;
  Connections connections(poll);
  poll.add(listener, EPOLLIN);
  poll.run([&](int fd) {
    if (fd != listener) return connections.advance(fd);
    int socket = -1;
    while ((socket = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
      connections.add(socket, false);
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) die("accept");
  });
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  CLI::App app("The backend of all comparisons: serves discard and echo.", "bench_backend");
  tcpmux::BackendOptions options;
  options.nonblocking = true;
  options.without_addresses = true;  // it would not look at them
  std::uint16_t port = 0;
  auto* const registry = app.add_option("--registry", options.registry, "a tcpmuxd's registry");
  app.add_option("--batch", options.batch, "how many sockets a message may bring (0: 8)");
  auto* const listen = app.add_option("--listen", port, "accepts there itself (0: any port)");
  registry->excludes(listen);
  app.require_option(1, 0);
  CLI11_PARSE(app, argc, argv);
  bench::raise_descriptor_limit();
  try {
    if (listen->count() > 0) bench::serve_port(port);
    bench::serve_mux(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_backend: %s\n", error.what());
    return 1;
  }
}
