// What the cases of a shard do with clients, and what clients hear.
#pragma once

#include "tests/contract/shard_support.h"

namespace tcpmux::contract_test {

constexpr std::string_view kShuttingDownReply = "-shutting down\r\n";

constexpr std::string_view kBusyReply = "-busy, try again\r\n";

inline AccessRules deny_loopback() {
  return *AccessRules::build({}, {*parse_prefix("127.0.0.0/8")});
}

template <class Io>
OwnFd accepted(World<Io>& world, std::uint32_t shard = 0) {
  OwnFd client = world.ask("echo\r\n", shard);
  EXPECT_EQ(read_line(client), "+\r\n");
  return client;
}

using handoff::LaneKind;
using handoff::LaneNotice;

// As many clients, all told '+'.
template <class Io>
std::vector<OwnFd> accepted_clients(World<Io>& world, std::size_t count, std::uint32_t shard = 0) {
  std::vector<OwnFd> clients;
  for (std::size_t i = 0; i < count; ++i)
    clients.push_back(accepted(world, shard));
  EXPECT_TRUE(world.comes(&ShardCounters::handed_off, count));
  return clients;
}

// Each client talks with the one socket that is its own; nothing came to it before.
inline void expect_all_talk(const std::vector<OwnFd>& clients,
                            const std::vector<Arrival>& arrivals) {
  EXPECT_EQ(clients.size(), arrivals.size());
  for (const OwnFd& client : clients) {
    const Endpoint own = endpoint_from(name_of(client.get()));
    const auto found = std::find_if(arrivals.begin(), arrivals.end(), [&](const Arrival& arrival) {
      sockaddr_storage peer{};
      socklen_t size = sizeof peer;
      return ::getpeername(arrival.socket.get(), reinterpret_cast<sockaddr*>(&peer), &size) == 0 &&
             endpoint_from(peer) == own;
    });
    ASSERT_NE(found, arrivals.end());
    expect_talk(client, *found);
  }
}

// Nobody listens there any more.
template <class Io>
bool refuses_connections(World<Io>& world) {
  return nobody_listens(world.address());
}

}  // namespace tcpmux::contract_test
