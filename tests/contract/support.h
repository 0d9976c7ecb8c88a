// What the contract tests share: sockets on the loopback, and an engine that is driven one
// completion at a time. Nothing here waits by the clock: it waits for a condition and gives up
// after kPatience_ns, far beyond what any machine needs. A helper that cannot do its work aborts.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/address.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/fd.h"
#include "core/io/backend.h"
#include "core/io/epoll_backend.h"
#include "core/io/uring_backend.h"

namespace tcpmux::contract_test {

inline constexpr std::int64_t kPatience_ns = 60 * kNanosPerSecond;

// ---- sockets

// A loopback address of this process alone (127.64.0.0/10, by its pid): whoever still asks at a
// port that was another program's, and is ours now, asks at another address.
inline Endpoint own_endpoint() {
  const std::uint32_t address = 0x7F400000U | (static_cast<std::uint32_t>(::getpid()) & 0x3FFFFFU);
  Endpoint own{.address = {.family = IpAddress::Family::kV4}};
  for (unsigned i = 0; i < 4; ++i)
    own.address.bytes[i] = static_cast<std::uint8_t>(address >> (24 - 8 * i));
  return own;
}

inline OwnFd listen_on_loopback(int backlog = 4096) {
  OwnFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(own_endpoint(), address);
  TCPMUX_CHECK(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                   ::listen(listener.get(), backlog) == 0,
               "a test needs a listener");
  return listener;
}

inline sockaddr_storage name_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  TCPMUX_CHECK(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0,
               "a socket has a name");
  return address;
}

// Returns when the connection stands in the listener's queue: the loopback's handshake is done
// within connect().
inline OwnFd connect_to(const OwnFd& listener) {
  OwnFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_storage address = name_of(listener.get());
  TCPMUX_CHECK(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address),
                         sizeof(sockaddr_in)) == 0,
               "a test needs a connection");
  return client;
}

struct Connection {
  OwnFd client;
  OwnFd server;
};

inline Connection make_connection() {
  const OwnFd listener = listen_on_loopback();
  Connection made{.client = connect_to(listener), .server = {}};
  made.server.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  TCPMUX_CHECK(made.server.valid(), "a connection that stands in the queue can be accepted");
  return made;
}

inline void send_text(const OwnFd& fd, std::string_view text) {
  TCPMUX_CHECK(
      ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()),
      "a test's text fits into a socket");
}

// Reads until `size` bytes have come, or the end.
inline std::string receive_text(int fd, std::size_t size) {
  std::string text(size, '\0');
  std::size_t have = 0;
  while (have < size) {
    const ssize_t got = ::recv(fd, text.data() + have, size - have, 0);
    if (got <= 0) break;
    have += static_cast<std::size_t>(got);
  }
  text.resize(have);
  return text;
}

// Closes with RST instead of FIN.
inline void reset(OwnFd& fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  TCPMUX_CHECK(::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0,
               "a socket takes SO_LINGER");
  fd.reset();
}

// True when `events` (or an error) came. The end of the wait for what the peer did.
inline bool becomes(int fd, short events) {
  pollfd waiting{.fd = fd, .events = events, .revents = 0};
  const int ready = ::poll(&waiting, 1, static_cast<int>(kPatience_ns / kNanosPerMilli));
  return ready == 1;
}

inline bool is_blocking(int fd) {
  return (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0;
}
inline bool is_close_on_exec(int fd) {
  return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}
inline bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

// Threads that io_uring made because it could not finish or park an operation by itself: each costs
// far more than the operation. They stay for seconds, so none is missed.
inline std::size_t kernel_workers() {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name.starts_with("iou-wrk")) ++count;
  }
  return count;
}

// The soft limit of descriptor numbers, until the end of the scope.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    TCPMUX_CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0, "a limit can be read");
    const rlimit lowered{.rlim_cur = limit, .rlim_max = before_.rlim_max};
    TCPMUX_CHECK(::setrlimit(RLIMIT_NOFILE, &lowered) == 0, "a soft limit can be set");
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

// The number that the next descriptor would get.
inline int next_descriptor() {
  const OwnFd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  TCPMUX_CHECK(next.valid(), "a test needs a descriptor");
  return next.get();
}

// False where not even root may have so many.
inline bool raise_descriptor_limit(rlim_t wanted) {
  rlimit limit{};
  TCPMUX_CHECK(::getrlimit(RLIMIT_NOFILE, &limit) == 0, "a limit can be read");
  if (limit.rlim_cur >= wanted) return true;
  if (limit.rlim_max < wanted) return false;
  limit.rlim_cur = wanted;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

// ---- engines

using Engines = ::testing::Types<UringBackend, EpollBackend>;
struct EngineNames {
  template <class Io>
  static std::string GetName(int) {
    return std::is_same_v<Io, UringBackend> ? "uring" : "epoll";
  }
};

// Whether the kernel has the io_uring that the engine needs, told without the engine: what the
// engine does wrong must not make its tests be skipped. IORING_OP_SOCKET came with multishot
// accept (5.19).
inline bool kernel_has_uring() {
  io_uring_probe* const probe = io_uring_get_probe();
  const bool has = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_SOCKET);
  io_uring_free_probe(probe);
  return has;
}

// Every case runs on both engines; on io_uring only where it is to be had.
template <class Io>
class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if constexpr (std::is_same_v<Io, UringBackend>) {
      static const bool has = kernel_has_uring();
      if (!has) GTEST_SKIP() << "no io_uring here, or one before Linux 5.19";
    }
  }
};

inline Tag tag_of(Operation operation, std::uint32_t index = 0, std::uint32_t generation = 0) {
  return {.operation = operation, .slot = {.index = index, .generation = generation}};
}

inline bool same(const Tag& a, const Tag& b) {
  return a.pack() == b.pack();
}

inline constexpr IoLimits kLimits{.operations_max = 1024, .descriptors_max = 65536};

// An engine and what it has said so far that nobody asked for yet.
template <class Io>
class Driven {
 public:
  explicit Driven(const IoLimits& limits = kLimits) {
    auto made = Io::create(limits);
    if (!made) {
      std::fprintf(stderr, "%s\n", made.error().message.c_str());
      TCPMUX_UNREACHABLE("the engine can be made");
    }
    io_ = std::move(*made);
    unclaimed_.reserve(65536);
  }

  Io& operator*() { return *io_; }
  Io* operator->() { return io_.get(); }

  // The next completion with that tag; what else comes is kept.
  std::optional<Completion> await(Tag tag) {
    const std::int64_t deadline_ns = monotonic_ns() + kPatience_ns;
    for (;;) {
      if (std::optional<Completion> found = claim(tag)) return found;
      if (monotonic_ns() > deadline_ns) return std::nullopt;
      collect(io_->wait(buffer_, deadline_ns));
    }
  }

  // Its result; INT32_MIN when it never came, which no operation gives.
  std::int32_t result_of(Tag tag) {
    const std::optional<Completion> completion = await(tag);
    return completion ? completion->result : INT32_MIN;
  }

  // Gives the engine every occasion to say what it has to say: a wakeup is signalled and awaited
  // (twice: what the first turn started may complete in the second), then nothing may be left.
  void settle() {
    if (!wakeup_.valid()) {
      wakeup_.reset(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      io_->watch_wakeups(kSettled, wakeup_.get());
    }
    for (int round = 0; round < 2; ++round) {
      const std::uint64_t one = 1;
      TCPMUX_CHECK(::write(wakeup_.get(), &one, sizeof one) == sizeof one, "an eventfd counts");
      TCPMUX_CHECK(await(kSettled).has_value(), "an engine sees its wakeup");
    }
    while (const std::size_t count = io_->reap(buffer_))
      collect(count);
  }

  // What came and was not asked for.
  const std::vector<Completion>& unclaimed() const { return unclaimed_; }
  bool nothing_else() {
    settle();
    return unclaimed_.empty();
  }

  std::optional<Completion> claim(Tag tag) {
    for (std::size_t i = 0; i < unclaimed_.size(); ++i) {
      if (!same(unclaimed_[i].tag, tag)) continue;
      const Completion found = unclaimed_[i];
      unclaimed_.erase(unclaimed_.begin() + static_cast<std::ptrdiff_t>(i));
      return found;
    }
    return std::nullopt;
  }

  void collect(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      unclaimed_.push_back(buffer_[i]);
  }

  std::span<Completion> buffer() { return buffer_; }

 private:
  static constexpr Tag kSettled{.operation = Operation::kWakeup,
                                .slot = {.index = 0x5E77, .generation = 0x1ED}};

  OwnFd wakeup_;  // outlives the engine that watches it
  std::unique_ptr<Io> io_;
  std::array<Completion, 64> buffer_{};
  std::vector<Completion> unclaimed_;
};

}  // namespace tcpmux::contract_test
