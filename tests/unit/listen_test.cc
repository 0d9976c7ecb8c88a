// Which sockets the shards listen on, when it begins, when the configuration changes, and when they
// come from another process.
#include "core/server/listen.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/base/check.h"
#include "core/io/listener.h"

namespace tcpmux {
namespace {

constexpr std::uint32_t kShards = 3;

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

Endpoint endpoint(const std::string& text) {
  return parse_endpoint(text).value();
}
Endpoint endpoint(const std::string& address, std::uint16_t port) {
  return endpoint(address + ":" + std::to_string(port));
}

Config config_for(std::vector<Endpoint> listen) {
  Config config;
  config.listen = std::move(listen);
  config.listen_is_default = false;
  return config;
}

OwnFd tcp_socket(const Endpoint& at) {
  const int family = at.address.family == IpAddress::Family::kV6 ? AF_INET6 : AF_INET;
  return OwnFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

// A port that somebody else has, who shares it with nobody.
struct Foreign {
  OwnFd socket = tcp_socket(endpoint("127.0.0.1:0"));
  Endpoint at;
  Foreign() {
    sockaddr_storage address{};
    const socklen_t size = to_sockaddr(endpoint("127.0.0.1:0"), address);
    TCPMUX_CHECK(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
                     ::listen(socket.get(), 1) == 0,
                 "a test needs a listener");
    at = local_endpoint_of();
  }
  Endpoint local_endpoint_of() const {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    TCPMUX_CHECK(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0,
                 "a socket has a name");
    return endpoint_from(address);
  }
};

bool can_connect(const Endpoint& to) {
  const OwnFd client = tcp_socket(to);
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(to, address);
  return ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0;
}

bool machine_has_v6() {
  const Endpoint loopback = endpoint("[::1]:0");
  const OwnFd socket = tcp_socket(loopback);
  sockaddr_storage address{};
  const socklen_t size = to_sockaddr(loopback, address);
  return socket.valid() &&
         ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0;
}

Listening start(const Config& config, std::uint32_t shards = kShards) {
  Result<Listening> started = start_listening(config, {}, shards);
  EXPECT_TRUE(started.has_value()) << started.error().message;
  return started ? *std::move(started) : Listening{};
}

Listening changed(const Listening& now, const Config& config) {
  Result<Listening> change = change_listening(now, config, kShards);
  EXPECT_TRUE(change.has_value()) << change.error().message;
  return change ? *std::move(change) : Listening{};
}

// As shards do with a change: new sockets come, those of removed addresses go.
void apply(Listening& now, Listening change) {
  for (std::uint32_t shard = 0; shard < kShards; ++shard) {
    auto& has = now.by_shard[shard];
    std::erase_if(has, [&](const ShardListener& one) {
      return std::find(change.leaving.begin(), change.leaving.end(), one.address) !=
             change.leaving.end();
    });
    std::ranges::move(change.by_shard[shard], std::back_inserter(has));
  }
  change.by_shard = std::move(now.by_shard);
  now = std::move(change);
}

// What a successor is offered: copies, as of SCM_RIGHTS.
std::vector<OfferedAddress> offer_of(const Listening& listening) {
  std::vector<OfferedAddress> offered;
  for (const ListenAddress& address : listening.addresses) {
    OfferedAddress one{
        .wanted = address.wanted, .real = address.real, .inherited = address.inherited};
    for (const int socket : address.sockets)
      one.sockets.emplace_back(::fcntl(socket, F_DUPFD_CLOEXEC, 0));
    offered.push_back(std::move(one));
  }
  return offered;
}

TEST(Listen, EachShardHasASocketOfItsOwnForEachAddress) {
  const Listening listening = start(config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.2:0")}));
  ASSERT_EQ(listening.addresses.size(), 2U);
  ASSERT_EQ(listening.by_shard.size(), kShards);
  std::set<int> sockets;
  for (const auto& of_shard : listening.by_shard) {
    ASSERT_EQ(of_shard.size(), 2U);
    for (const ShardListener& one : of_shard) {
      sockets.insert(one.socket.get());
      const ListenAddress& address = listening.addresses[one.address];
      EXPECT_EQ(address.number, one.address);
      EXPECT_EQ(local_endpoint(one.socket.get()).value(), address.real);
      EXPECT_FALSE(one.inherited);
    }
  }
  EXPECT_EQ(sockets.size(), 2 * kShards);
  EXPECT_EQ(listening.addresses[0].wanted.port, 0);
  EXPECT_TRUE(can_connect(listening.addresses[0].real));
  EXPECT_EQ(listening.addresses[0].sockets.size(), kShards);
}

TEST(Listen, PortZeroTwiceIsTwoPorts) {
  const Config config = config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.1:0")});
  const Listening listening = start(config);
  ASSERT_EQ(listening.addresses.size(), 2U);
  EXPECT_NE(listening.addresses[0].real.port, listening.addresses[1].real.port);
  const Listening same = changed(listening, config);
  EXPECT_TRUE(same.leaving.empty());
  EXPECT_EQ(same.addresses.size(), 2U);
  const Listening fewer = changed(listening, config_for({endpoint("127.0.0.1:0")}));
  ASSERT_EQ(fewer.leaving.size(), 1U) << "one of the two";
  EXPECT_EQ(fewer.addresses.size(), 1U);
  const Listening more = changed(
      listening,
      config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.1:0"), endpoint("127.0.0.1:0")}));
  EXPECT_TRUE(more.leaving.empty());
  ASSERT_EQ(more.addresses.size(), 3U);
  EXPECT_EQ(more.by_shard[0].size(), 1U);
}

TEST(Listen, AForeignPortIsRefusedAndNothingIsLeft) {
  const Foreign foreign;
  const std::size_t before = open_descriptors();
  EXPECT_FALSE(
      start_listening(config_for({endpoint("127.0.0.1:0"), foreign.at}), {}, kShards).has_value());
  EXPECT_EQ(open_descriptors(), before);
}

TEST(ListenChange, KeepsAddsAndRemoves) {
  Listening now = start(config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.2:0")}));
  const Endpoint removed = now.addresses[1].real;
  const std::vector<int> kept_sockets = now.addresses[0].sockets;
  Listening change = changed(now, config_for({endpoint("127.0.0.3:0"), endpoint("127.0.0.1:0")}));
  EXPECT_EQ(change.leaving, std::vector<std::uint32_t>{1});
  ASSERT_EQ(change.addresses.size(), 2U);
  EXPECT_EQ(change.addresses[0].number, 0U);
  EXPECT_EQ(change.addresses[0].sockets, kept_sockets);
  EXPECT_EQ(change.addresses[1].number, 2U) << "a number is never given twice";
  for (const auto& of_shard : change.by_shard) {
    ASSERT_EQ(of_shard.size(), 1U) << "only what is new";
    EXPECT_EQ(of_shard[0].address, 2U);
  }
  apply(now, std::move(change));
  EXPECT_FALSE(can_connect(removed));
  EXPECT_TRUE(can_connect(now.addresses[1].real));
  // And back: a new socket with a new number.
  change = changed(now, config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.2:0")}));
  EXPECT_EQ(change.leaving, std::vector<std::uint32_t>{2});
  EXPECT_EQ(change.addresses[1].number, 3U);
}

// Our own listeners stand on the port: no reason to refuse it.
TEST(ListenChange, ThePortMovesToAllAddressesAndBack) {
  Listening now = start(config_for({endpoint("127.0.0.1:0")}));
  const std::uint16_t port = now.addresses[0].real.port;
  apply(now, changed(now, config_for({endpoint("0.0.0.0", port)})));
  EXPECT_EQ(now.addresses.size(), 1U);
  EXPECT_TRUE(can_connect(endpoint("127.0.0.1", port)));
  EXPECT_TRUE(can_connect(endpoint("127.0.0.2", port)));
  apply(now, changed(now, config_for({endpoint("127.0.0.1", port)})));
  EXPECT_TRUE(can_connect(endpoint("127.0.0.1", port)));
  EXPECT_FALSE(can_connect(endpoint("127.0.0.2", port)));
}

// [::] serves IPv4 as well, unless 0.0.0.0 is there for that.
TEST(ListenChange, TheSharedWildcardTakesOverIpv4) {
  if (!machine_has_v6()) GTEST_SKIP() << "no IPv6 here";
  Listening now = start(config_for({endpoint("0.0.0.0:0")}));
  const std::uint16_t port = now.addresses[0].real.port;
  const Endpoint v4 = endpoint("127.0.0.1", port);
  const Endpoint v6 = endpoint("[::1]", port);
  const Endpoint all_v4 = endpoint("0.0.0.0", port);
  const Endpoint all = endpoint("[::]", port);
  now.addresses[0].wanted = all_v4;
  apply(now, changed(now, config_for({all_v4, all})));
  EXPECT_TRUE(can_connect(v4) && can_connect(v6));
  apply(now, changed(now, config_for({all})));
  EXPECT_TRUE(can_connect(v6));
  EXPECT_TRUE(can_connect(v4)) << "nobody else is there for IPv4 now";
  apply(now, changed(now, config_for({all, all_v4})));
  EXPECT_TRUE(can_connect(v4) && can_connect(v6));
  apply(now, changed(now, config_for({all_v4})));
  EXPECT_TRUE(can_connect(v4));
  EXPECT_FALSE(can_connect(v6));
}

TEST(ListenChange, FailsWholeAndLeavesNothing) {
  const Foreign foreign;
  const Listening now = start(config_for({endpoint("127.0.0.1:0")}));
  const std::size_t before = open_descriptors();
  const auto change = change_listening(
      now, config_for({endpoint("127.0.0.2:0"), endpoint("127.0.0.3:0"), foreign.at}), kShards);
  ASSERT_FALSE(change.has_value());
  EXPECT_NE(change.error().message.find(to_string(foreign.at)), std::string::npos)
      << change.error().message;
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(can_connect(now.addresses[0].real)) << "and what was there is there";
}

// A service manager's sockets are not the configuration's to change.
TEST(ListenChange, WhatAServiceManagerPassedStays) {
  std::vector<OwnFd> passed;
  for (int i = 0; i < 2; ++i)
    passed.push_back(std::move(Foreign().socket));
  Result<Listening> now = start_listening(config_for({}), std::move(passed), kShards);
  ASSERT_TRUE(now.has_value()) << now.error().message;
  EXPECT_TRUE(now->inherited());
  for (const auto& of_shard : now->by_shard) {
    ASSERT_EQ(of_shard.size(), 2U);
    EXPECT_TRUE(of_shard[0].inherited);
  }
  const Listening change = changed(*now, config_for({endpoint("127.0.0.1:0")}));
  EXPECT_TRUE(change.leaving.empty());
  EXPECT_EQ(change.addresses.size(), 2U);
  EXPECT_TRUE(change.by_shard[0].empty());

  const auto taken = take_over_listening(config_for({endpoint("127.0.0.1:0")}), offer_of(*now), 2);
  ASSERT_TRUE(taken.has_value()) << taken.error().message;
  ASSERT_EQ(taken->addresses.size(), 2U);
  EXPECT_TRUE(taken->inherited());
  for (const auto& of_shard : taken->by_shard)
    for (const ShardListener& one : of_shard)
      EXPECT_TRUE(one.inherited);
}

TEST(ListenTakeOver, TheSameShardsHaveTheSameSockets) {
  const Config config = config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.2:0")});
  const Listening before = start(config);
  const std::size_t descriptors = open_descriptors();
  const auto after = take_over_listening(config, offer_of(before), kShards);
  ASSERT_TRUE(after.has_value()) << after.error().message;
  EXPECT_EQ(open_descriptors(), descriptors + 2 * kShards) << "none was opened";
  ASSERT_EQ(after->addresses.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(after->addresses[i].wanted, before.addresses[i].wanted);
    EXPECT_EQ(after->addresses[i].real, before.addresses[i].real);
    EXPECT_EQ(after->addresses[i].sockets.size(), kShards);
  }
  for (const auto& of_shard : after->by_shard)
    EXPECT_EQ(of_shard.size(), 2U);
}

// No socket with its backlog is dropped, and no shard is without one.
TEST(ListenTakeOver, MoreAndFewerShards) {
  const Config config = config_for({endpoint("127.0.0.1:0")});
  for (const std::uint32_t shards : {1U, 2U, 5U}) {
    const Listening before = start(config);
    const Endpoint real = before.addresses[0].real;
    const auto after = take_over_listening(config, offer_of(before), shards);
    ASSERT_TRUE(after.has_value()) << after.error().message;
    ASSERT_EQ(after->by_shard.size(), shards);
    std::size_t sockets = 0;
    for (const auto& of_shard : after->by_shard) {
      EXPECT_GE(of_shard.size(), 1U);
      sockets += of_shard.size();
      for (const ShardListener& one : of_shard)
        EXPECT_EQ(local_endpoint(one.socket.get()).value(), real);
    }
    EXPECT_EQ(sockets, std::max(shards, kShards));
    EXPECT_EQ(after->addresses[0].sockets.size(), sockets);
  }
}

TEST(ListenTakeOver, WhatIsNoLongerWantedIsToLeave) {
  const Listening before = start(config_for({endpoint("127.0.0.1:0"), endpoint("127.0.0.2:0")}));
  const auto after = take_over_listening(
      config_for({endpoint("127.0.0.3:0"), endpoint("127.0.0.2:0")}), offer_of(before), 2);
  ASSERT_TRUE(after.has_value()) << after.error().message;
  ASSERT_EQ(after->leaving.size(), 1U);
  std::size_t leaving = 0;
  std::set<std::uint32_t> numbers;
  for (const ListenAddress& address : after->addresses) {
    EXPECT_TRUE(numbers.insert(address.number).second);
    EXPECT_NE(address.real, before.addresses[0].real) << "it is not among the addresses";
  }
  EXPECT_EQ(numbers.size(), 2U);
  for (const auto& of_shard : after->by_shard)
    for (const ShardListener& one : of_shard) {
      if (one.address != after->leaving.front()) continue;
      ++leaving;
      EXPECT_FALSE(numbers.contains(one.address)) << "a change cannot mean it";
      EXPECT_EQ(local_endpoint(one.socket.get()).value(), before.addresses[0].real);
    }
  EXPECT_EQ(leaving, kShards) << "each with those who wait there";
}

TEST(ListenTakeOver, AnAddressMoreOnAPortOfTheirs) {
  const Listening before = start(config_for({endpoint("127.0.0.1:0")}));
  const std::uint16_t port = before.addresses[0].real.port;
  const auto after =
      take_over_listening(config_for({endpoint("0.0.0.0", port)}), offer_of(before), kShards);
  ASSERT_TRUE(after.has_value()) << after.error().message;
  ASSERT_EQ(after->addresses.size(), 1U);
  EXPECT_TRUE(can_connect(endpoint("127.0.0.2", port)));
}

TEST(ListenTakeOver, FailsWholeAndLeavesNothing) {
  const Foreign foreign;
  const Listening before = start(config_for({endpoint("127.0.0.1:0")}));
  const std::size_t descriptors = open_descriptors();
  EXPECT_FALSE(take_over_listening(config_for({endpoint("127.0.0.1:0"), foreign.at}),
                                   offer_of(before), kShards)
                   .has_value());
  EXPECT_EQ(open_descriptors(), descriptors);
}

}  // namespace
}  // namespace tcpmux
