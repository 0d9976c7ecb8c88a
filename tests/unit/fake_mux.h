// A registry for tests of the backend's side: it does nothing by itself, so that each test says
// what the mux does, and in what order. Every wait has a deadline that only a bug reaches.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "handoff/ancillary.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

inline constexpr int kPatience_ms = 30'000;

inline bool readable(int fd, int timeout_ms = kPatience_ms) {
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, timeout_ms) == 1;
}

// A directory of its own, removed with its sockets at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    if (::mkdtemp(path_) == nullptr) throw std::runtime_error("mkdtemp");
  }
  ~TemporaryFolder() {
    ::unlink(file("registry.sock").c_str());
    ::rmdir(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return std::string(path_) + "/" + name; }

 private:
  char path_[32] = "/tmp/tcpmux-test-XXXXXX";
};

struct SocketPair {
  OwnFd ours;
  OwnFd theirs;
};
inline SocketPair make_pair(int type = SOCK_SEQPACKET) {
  int both[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, both) < 0)
    throw std::runtime_error("socketpair");
  return {OwnFd(both[0]), OwnFd(both[1])};
}

// One registration as the mux has it: the connection, and for each lane its own end and, as the
// real one, a copy of the backend's.
struct FakeRegistration {
  OwnFd connection;
  Register asked;
  std::vector<SocketPair> lanes;

  void say(std::span<const std::byte> message, std::span<const int> descriptors = {}) const {
    EXPECT_EQ(send_now(connection.get(), message, descriptors), 0);
  }
  void refuse(RefuseCode code, const std::string& reason) {
    say(encode(Refuse{.code = static_cast<std::uint16_t>(code), .reason = reason}));
    connection.reset();
  }
  void welcome(std::uint16_t lane_count = 1, std::uint16_t batch = 8) {
    std::vector<int> ends;
    for (int i = 0; i < lane_count; ++i)
      lanes.push_back(make_pair());
    for (const SocketPair& lane : lanes)
      ends.push_back(lane.theirs.get());
    say(encode(Welcome{.lanes = lane_count, .window = 16, .batch = batch}), ends);
  }
  // The next message from the backend; 0 when the connection has ended.
  int next_type() const {
    std::byte bytes[1024];
    if (!readable(connection.get())) return -1;
    const ssize_t size = ::recv(connection.get(), bytes, sizeof bytes, 0);
    if (size <= 0) return 0;
    return decode_header({bytes, static_cast<std::size_t>(size)})->type;
  }

  // Hands `count` sockets over in one message, and gives the clients' ends of them. Their ids'
  // last byte counts from `first_id`.
  std::vector<OwnFd> hand_over(std::size_t lane, int count, int first_id = 0,
                               const std::string& service = "echo") const {
    std::vector<OwnFd> clients;
    std::vector<OwnFd> given;
    std::vector<int> numbers;
    std::vector<std::byte> buffer(kMessageBytesMax);
    HandoffEncoder encoder(buffer);
    for (int i = 0; i < count; ++i) {
      SocketPair pair = make_pair(SOCK_STREAM);
      numbers.push_back(pair.theirs.get());
      clients.push_back(std::move(pair.ours));
      given.push_back(std::move(pair.theirs));
      Facts facts{.source = *parse_endpoint("192.0.2.7:50000"),
                  .destination = *parse_endpoint("198.51.100.1:1"),
                  .service = service,
                  .accepted_ns = 1'649'264'007'492'403'200};
      facts.id[15] = static_cast<std::uint8_t>(first_id + i);
      EXPECT_TRUE(encoder.add(facts));
    }
    EXPECT_EQ(send_now(lanes[lane].ours.get(), encoder.finish(), numbers), 0);
    return clients;
  }
};

class FakeMux {
 public:
  FakeMux() { listen(); }
  const std::string& path() const { return path_; }

  void stop_listening() {
    listener_.reset();
    ::unlink(path_.c_str());
  }
  void listen() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.size());
    listener_ = OwnFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ||
        ::listen(listener_.get(), 16) < 0)
      throw std::runtime_error("cannot listen at " + path_);
  }

  // The next backend to come, with what it asks for.
  FakeRegistration next() const {
    FakeRegistration registration;
    if (!readable(listener_.get())) throw std::runtime_error("no backend came");
    registration.connection = OwnFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::vector<std::byte> bytes(kMessageBytesMax);
    if (!readable(registration.connection.get())) throw std::runtime_error("no Register came");
    const ssize_t size = ::recv(registration.connection.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(static_cast<std::size_t>(size < 0 ? 0 : size));
    const Result<Register> asked = decode_register(bytes);
    if (!asked) throw std::runtime_error(asked.error().message);
    registration.asked = *asked;
    return registration;
  }

 private:
  TemporaryFolder folder_;
  std::string path_ = folder_.file("registry.sock");
  OwnFd listener_;
};

}  // namespace tcpmux::handoff
