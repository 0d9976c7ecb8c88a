// The two ends that a shard has to do with, as tests see them: a client's socket, and a backend's
// end of a lane.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "handoff/ancillary.h"
#include "handoff/lane.h"
#include "handoff/message.h"
#include "tests/contract/support.h"

namespace tcpmux::contract_test {

// ---- clients

inline OwnFd connect_to_endpoint(const Endpoint& endpoint, int receive_bytes = 0) {
  OwnFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // The end of a test's patience, so that a reply that never comes is a failure and not a hang.
  const timeval patience{.tv_sec = kPatience_ns / kNanosPerSecond, .tv_usec = 0};
  TCPMUX_CHECK(::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0,
               "a socket takes SO_RCVTIMEO");
  if (receive_bytes > 0)
    TCPMUX_CHECK(::setsockopt(client.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes,
                              sizeof receive_bytes) == 0,
                 "a socket takes SO_RCVBUF");
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(endpoint, address);
  TCPMUX_CHECK(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0,
               "a test needs a connection");
  return client;
}

inline bool nobody_listens(const Endpoint& endpoint) {
  const OwnFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(endpoint, address);
  return ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), size) < 0 &&
         errno == ECONNREFUSED;
}

// All until the end, and how it ended where that was no FIN.
inline std::string read_all(const OwnFd& fd) {
  std::string text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t got = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (got == 0) return text;
    // A ring of this process that ends interrupts us, and with a timeout nothing is restarted.
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return text + "<" + std::strerror(errno) + ">";
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}
// One line with its end, and nothing behind it.
inline std::string read_line(const OwnFd& fd) {
  std::string line;
  while (!line.ends_with('\n')) {
    char byte = 0;
    const ssize_t got = ::recv(fd.get(), &byte, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return line + "<end>";
    line += byte;
  }
  return line;
}
inline void finish_writing(const OwnFd& fd) {
  TCPMUX_CHECK(::shutdown(fd.get(), SHUT_WR) == 0, "a connection can be half closed");
}

// ---- backends

struct BackendOptions {
  std::vector<std::string> services = {"echo"};
  std::vector<std::uint32_t> shards = {0};  // a lane on each
  std::uint32_t window = 16;
  std::uint16_t batch = 1;
  handoff::LaneKind kind = handoff::LaneKind::kMessages;
  bool without_addresses = false;
  int send_bytes = 1 << 20;  // SO_SNDBUF of our end
};

struct LaneEnds {
  std::unique_ptr<handoff::Lane> lane;
  OwnFd theirs;
};

// As the registry makes one.
inline LaneEnds make_lane(std::uint64_t backend, const std::vector<ServiceId>& services,
                          const BackendOptions& options) {
  const bool stream = options.kind == handoff::LaneKind::kRawStream;
  int ends[2];
  TCPMUX_CHECK(
      ::socketpair(AF_UNIX, (stream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC, 0, ends) == 0,
      "a test needs a socket pair");
  OwnFd ours(ends[0]);
  OwnFd copy(ends[1]);
  TCPMUX_CHECK(::setsockopt(ours.get(), SOL_SOCKET, SO_SNDBUF, &options.send_bytes,
                            sizeof options.send_bytes) == 0,
               "a socket takes SO_SNDBUF");
  OwnFd theirs(::fcntl(copy.get(), F_DUPFD_CLOEXEC, 0));
  TCPMUX_CHECK(theirs.valid(), "a test needs a descriptor");
  handoff::Lane::Setup setup{.ours = std::move(ours),
                             .copy_of_theirs = std::move(copy),
                             .backend = backend,
                             .services = services,
                             .kind = options.kind,
                             .without_addresses = options.without_addresses,
                             .window = options.window,
                             .batch = options.batch};
  return {std::make_unique<handoff::Lane>(std::move(setup)), std::move(theirs)};
}

// A socket that a backend has received.
struct Arrival {
  OwnFd socket{};
  std::string service{};  // this and all below: of a lane that is not raw
  Endpoint source{};
  Endpoint destination{};
  handoff::ConnectionId id{};
  std::int64_t accepted_ns = 0;
};

struct Backend {
  std::uint64_t id = 0;
  std::vector<OwnFd> lanes;
  std::size_t most_in_a_message = 0;
  std::size_t probes = 0;
  std::vector<Arrival> received;

  // Receives from every lane what is there now.
  void receive_now(handoff::LaneKind kind = handoff::LaneKind::kMessages) {
    for (const OwnFd& lane : lanes)
      while (receive_message(lane.get(), kind)) {
      }
  }
  // The next `count` sockets; fewer when they do not come. A shard that fills the lane while it is
  // read makes more of them: those stay for the next call.
  std::vector<Arrival> take(std::size_t count,
                            handoff::LaneKind kind = handoff::LaneKind::kMessages) {
    const std::int64_t deadline_ns = monotonic_ns() + kPatience_ns;
    for (receive_now(kind); received.size() < count && monotonic_ns() < deadline_ns;
         receive_now(kind)) {
      std::vector<pollfd> waiting;
      for (const OwnFd& lane : lanes)
        waiting.push_back({.fd = lane.get(), .events = POLLIN, .revents = 0});
      ::poll(waiting.data(), waiting.size(), 10);
    }
    const auto end =
        received.begin() + static_cast<std::ptrdiff_t>(std::min(count, received.size()));
    std::vector<Arrival> taken(std::make_move_iterator(received.begin()),
                               std::make_move_iterator(end));
    received.erase(received.begin(), end);
    return taken;
  }
  Arrival take_one(handoff::LaneKind kind = handoff::LaneKind::kMessages) {
    std::vector<Arrival> all = take(1, kind);
    EXPECT_EQ(all.size(), 1U);
    return all.empty() ? Arrival{} : std::move(all.front());
  }

 private:
  // False when nothing is there.
  bool receive_message(int lane, handoff::LaneKind kind) {
    using namespace handoff;
    const bool raw = kind != LaneKind::kMessages;
    std::array<std::byte, kMessageBytesMax> buffer;
    std::array<OwnFd, kSocketsPerMessageMax> sockets;
    const auto payload = std::span(buffer).first(raw ? 1 : buffer.size());
    const handoff::Received got = handoff::receive(lane, payload, sockets, MSG_DONTWAIT);
    if (got.kind != handoff::Received::Kind::kMessage) return false;
    EXPECT_FALSE(got.descriptors_lost || got.payload_truncated);
    const auto bytes = std::span<const std::byte>(payload).first(got.bytes);
    most_in_a_message = std::max(most_in_a_message, got.descriptors);
    if (raw) {
      EXPECT_EQ(got.descriptors, 1U);
      EXPECT_EQ(bytes[0], std::byte{0});
      received.push_back({.socket = std::move(sockets[0])});
      return true;
    }
    const std::optional<Header> header = decode_header(bytes);
    const bool probe = header && header->type == static_cast<std::uint8_t>(MessageType::kProbe);
    probes += probe ? 1 : 0;
    EXPECT_TRUE(probe ? got.descriptors == 0
                      : header && header->type == static_cast<std::uint8_t>(MessageType::kHandoff));
    EXPECT_EQ(header ? header->count : 0U, got.descriptors);
    HandoffDecoder decoder(bytes);
    for (std::size_t i = 0; i < got.descriptors; ++i) {
      const Result<Facts> facts = decoder.next();
      EXPECT_TRUE(facts.has_value());
      if (!facts) return true;
      received.push_back({.socket = std::move(sockets[i]),
                          .service = std::string(facts->service),
                          .source = facts->source,
                          .destination = facts->destination,
                          .id = facts->id,
                          .accepted_ns = facts->accepted_ns});
    }
    return true;
  }
};

// The client hears what the backend says through the socket that it was given, and vice versa.
inline void expect_talk(const OwnFd& client, const Arrival& server) {
  send_text(server.socket, "hello client\n");
  EXPECT_EQ(read_line(client), "hello client\n");
  send_text(client, "hello server\n");
  EXPECT_EQ(receive_text(server.socket.get(), 13), "hello server\n");
}

}  // namespace tcpmux::contract_test
