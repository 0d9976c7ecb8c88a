// Clients of a TCPMUX server, many at once in one thread on epoll: each connects, says its line,
// and checks the reply byte for byte, and that the server then closes.
//
// A client that has seen the server's FIN closes with a reset, so that no side keeps a TIME_WAIT
// and the port is free at once. Sources are 127.0.0.2 and on, in turn.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/fd.h"

namespace bench {

enum class Outcome : std::uint8_t {
  kServed,        // the reply, all of it, and then EOF
  kNotConnected,  // no connection, or no line sent
  kRefused,       // the reply begins with '-'
  kWrongReply,
  kEndedEarly,  // EOF before the reply was whole
  kReset,
  kTimedOut,
};
inline constexpr std::size_t kOutcomeCount = 7;
const char* to_string(Outcome outcome);

struct ClientOptions {
  std::uint16_t port = 0;
  std::string line;
  std::string reply;
  std::uint32_t at_once = 64;
  std::uint32_t sources = 16;
  std::int64_t timeout_ns = 0;  // for one connection
};

class Clients {
 public:
  explicit Clients(const ClientOptions& options);

  // Keeps `at_once` connections under way until `count` were begun or the time has come.
  void run(std::uint64_t count, std::int64_t until_ns);

  // All `at_once` connect and say their line, and nothing is read.
  void queue_up();
  // Waits until every one of them has something to read; gives the time of the last.
  std::int64_t wait_for_replies();
  // Reads and judges every reply.
  void read_replies();

  std::uint64_t count(Outcome outcome) const { return counts_[static_cast<std::size_t>(outcome)]; }
  std::uint64_t finished() const;

 private:
  struct Client {
    tcpmux::OwnFd socket;
    bool has_asked = false;        // the line is sent
    std::uint32_t read_bytes = 0;  // of the reply, all as they should be
    std::int64_t deadline_ns = 0;
  };

  void begin(std::uint32_t index);
  bool connect(Client& client);
  bool ask(std::uint32_t index);
  void watch(std::uint32_t index, std::uint32_t events, int operation);
  void handle(std::uint32_t index, std::uint32_t events);
  void read(std::uint32_t index, bool at_end);
  void finish(std::uint32_t index, Outcome outcome);
  void expire();
  void poll();

  ClientOptions options_;
  tcpmux::OwnFd epoll_;
  std::vector<Client> clients_;
  std::array<std::uint64_t, kOutcomeCount> counts_{};
  std::uint32_t active_ = 0;
  std::uint64_t begun_ = 0;
  std::uint64_t begun_max_ = 0;  // no more are begun from here on,
  std::int64_t until_ns_ = 0;    // nor from then on
  std::int64_t now_ns_ = 0;
  std::int64_t expire_at_ns_ = 0;
};

}  // namespace bench
