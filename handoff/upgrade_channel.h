// What two generations of the daemon say to each other while one takes the other's place: JSON
// objects with descriptors, over a SOCK_SEQPACKET pair that the older one makes. JSON, because the
// two are different programs: a field that one does not know does no harm.
//
//   old                                    new
//   offer: registry, its lock ->
//   address: listeners ->
//   offered ->                             builds everything, serves nobody
//                                     <- ready
//   (pauses) backend, lane, end ->
//                                     <- serving, and serves
//   client: a handshake that goes on ->
//   (end of the channel)
//
// Instead of `ready` or `serving`, `failed` with `error`. Until `serving` the old one can go on as
// if nothing had been; from then on everything is the new one's.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/server/handoff_sink.h"

namespace tcpmux::handoff {

inline constexpr const char* kUpgradeVariable = "TCPMUX_UPGRADE_FD";
inline constexpr int kUpgradeVersion = 1;

struct UpgradeMessage {
  std::string kind;
  nlohmann::json body;
  std::vector<OwnFd> descriptors;
};

class UpgradeChannel {
 public:
  struct Pair;
  static Result<Pair> make_pair();
  // Checks that it is such a socket.
  static Result<UpgradeChannel> from(OwnFd socket);

  // Blocks for at most `timeout_ms`, which the other side is far from needing. At most 253
  // descriptors.
  Status send(const nlohmann::json& body, std::span<const int> descriptors);
  // Blocks for at most `timeout_ms`. Nothing: the other side has closed it.
  Result<std::optional<UpgradeMessage>> receive(std::int64_t timeout_ms);

  int fd() const { return socket_.get(); }

 private:
  explicit UpgradeChannel(OwnFd socket) : socket_(std::move(socket)) {}
  OwnFd socket_;
};

struct UpgradeChannel::Pair {
  UpgradeChannel ours;
  OwnFd theirs;
};

// A connection whose handshake began in the old process, without its socket; `service` by name.
nlohmann::json client_state(const PassedConnection& connection, const std::string& service);
// Throws nlohmann::json::exception where `state` is not that. `service` is left to the caller.
PassedConnection client_from(const nlohmann::json& state, OwnFd socket);

}  // namespace tcpmux::handoff
