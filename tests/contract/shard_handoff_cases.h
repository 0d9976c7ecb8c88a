// Cases of a shard: places in lanes, and the ways to them. Included by the programs that run them.
#pragma once

#include "tests/contract/shard_clients.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardHandoff : public ShardTest<Io> {};
TYPED_TEST_SUITE(ShardHandoff, Engines, EngineNames);

TYPED_TEST(ShardHandoff, AFullWindowIsBusyAfterAWhile) {
  auto& world = this->make_world({.room_wait_ms = kShort_ms});
  Backend backend = world.add_backend({.window = 2});
  const OwnFd first = accepted(world);
  const OwnFd second = accepted(world);
  const OwnFd third = world.ask("echo\r\nwith more behind");
  EXPECT_EQ(read_all(third), kBusyReply);
  EXPECT_EQ(world.refused(Refusal::kBusy), 1U);
  EXPECT_EQ(backend.take(2).size(), 2U);
  EXPECT_TRUE(world.wait_until([&] {  // a shard that is not let run may miss its time
    const OwnFd fourth = world.ask("echo\r\n");
    return read_line(fourth) == "+\r\n";
  }));
  EXPECT_EQ(backend.take(1).size(), 1U);
}

TYPED_TEST(ShardHandoff, WhoWaitsForRoomGetsTheNextPlace) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  std::vector<OwnFd> clients;
  clients.push_back(accepted(world));
  for (int i = 0; i < 5; ++i) {
    clients.push_back(world.ask("echo\r\n" + std::to_string(i)));
    world.settle();
  }
  for (std::size_t i = 0; i < clients.size(); ++i) {
    const Arrival arrival = backend.take_one();
    if (i == 0) continue;
    EXPECT_EQ(read_line(clients[i]), "+\r\n") << "first come, first served";
    EXPECT_EQ(receive_text(arrival.socket.get(), 1), std::to_string(i - 1));
  }
}

// Whoever leaves while waiting takes no place from those who stay.
TYPED_TEST(ShardHandoff, WhoLeavesWhileWaitingIsTheBackendsToSee) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  const OwnFd first = accepted(world);
  OwnFd leaver = world.ask("echo\r\n");
  const OwnFd stayer = world.ask("echo\r\n!");
  world.settle();
  reset(leaver);
  world.settle();
  EXPECT_EQ(backend.take(1).size(), 1U);
  // The reply to one that is gone may fail, or just be sent in vain.
  for (Arrival arrival = backend.take_one();; arrival = backend.take_one())
    if (receive_text(arrival.socket.get(), 1) == "!") break;
  EXPECT_EQ(read_line(stayer), "+\r\n");
}

TYPED_TEST(ShardHandoff, TheLaneWithTheMostRoomWins) {
  auto& world = this->make_world();
  Backend small = world.add_backend({.window = 2});
  Backend large = world.add_backend({.window = 8});
  std::vector<OwnFd> clients;
  for (int i = 0; i < 6; ++i)
    clients.push_back(accepted(world));
  EXPECT_EQ(large.take(6).size(), 6U);
  for (int i = 0; i < 10; ++i)
    clients.push_back(accepted(world));
  EXPECT_EQ(large.take(8).size(), 8U);
  EXPECT_EQ(small.take(2).size(), 2U);
}

TYPED_TEST(ShardHandoff, SeveralServicesInOneLane) {
  auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
  Backend both = world.add_backend({.services = {"time", "echo"}});
  Backend only = world.add_backend({.services = {"time"}, .window = 1});
  world.end_backend(only);
  for (const std::string_view name : {"echo", "time", "echo"}) {
    const OwnFd client = world.ask(std::string(name) + "\r\n");
    EXPECT_EQ(read_line(client), "+\r\n");
    EXPECT_EQ(both.take_one().service, name);
  }
}

TYPED_TEST(ShardHandoff, MessagesOfSeveralSockets) {
  auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
  Backend backend = world.add_backend({.services = {"echo", "time"}, .window = 512, .batch = 4});
  std::map<std::uint16_t, std::string> asked;
  std::vector<OwnFd> clients;
  for (int i = 0; i < 60; ++i) {
    const std::string name = i % 2 == 0 ? "echo" : "time";
    clients.push_back(world.ask(name + "\r\n"));
    asked[endpoint_from(name_of(clients.back().get())).port] = name;
  }
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_line(client), "+\r\n");
  for (const Arrival& arrival : backend.take(60)) {
    EXPECT_EQ(arrival.service, asked[arrival.source.port]);
    asked.erase(arrival.source.port);
  }
  EXPECT_TRUE(asked.empty()) << "each was handed over once, with the facts that are its own";
  EXPECT_LE(backend.most_in_a_message, 4U);
  EXPECT_LE(world.count(&ShardCounters::messages), 60U);
}

// The kernel may have less room than the window promises: what is refused is sent later.
TYPED_TEST(ShardHandoff, AQueueThatIsFullBeforeItsWindow) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64, .send_bytes = 1});
  std::vector<OwnFd> clients;
  for (int i = 0; i < 20; ++i)
    clients.push_back(accepted(world));
  EXPECT_TRUE(world.comes(&ShardCounters::lane_full, 1));
  EXPECT_EQ(backend.take(20).size(), 20U);
  EXPECT_TRUE(world.comes(&ShardCounters::handed_off, 20));
}

TYPED_TEST(ShardHandoff, RawLanes) {
  for (const auto kind : {handoff::LaneKind::kRawSeqpacket, handoff::LaneKind::kRawStream}) {
    auto& world = this->make_world();
    Backend backend = world.add_backend({.kind = kind});
    std::vector<OwnFd> clients;
    for (int i = 0; i < 5; ++i)
      clients.push_back(accepted(world));
    const std::vector<Arrival> arrivals = backend.take(5, kind);
    ASSERT_EQ(arrivals.size(), 5U);
    for (std::size_t i = 0; i < 5; ++i)
      expect_talk(clients[i], arrivals[i]);
  }
}

TYPED_TEST(ShardHandoff, AddressesAreNotToldToWhoDoesNotWantThem) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.without_addresses = true});
  const OwnFd client = accepted(world);
  const Arrival arrival = backend.take_one();
  EXPECT_EQ(arrival.source, Endpoint{});
  EXPECT_EQ(arrival.destination, Endpoint{});
  EXPECT_EQ(arrival.service, "echo");
  expect_talk(client, arrival);
}

// Each connection waits before it asks, so that the engine watches its socket; and the numbers of
// the descriptors come again.
TYPED_TEST(ShardHandoff, AShardWithoutALanePassesTheSocketOn) {
  auto& world = this->make_world({.shards = 2});
  Backend backend = world.add_backend({.shards = {1}});
  for (std::uint64_t i = 0; i < 30; ++i) {
    const OwnFd client = world.connect(0);
    world.settle(0);
    send_text(client, "echo\r\n!");
    EXPECT_EQ(read_line(client), "+\r\n");
    const Arrival arrival = backend.take_one();
    EXPECT_EQ(arrival.source, endpoint_from(name_of(client.get())));
    EXPECT_EQ(arrival.destination, endpoint_from(name_of(arrival.socket.get())));
    EXPECT_EQ(receive_text(arrival.socket.get(), 1), "!");
    expect_talk(client, arrival);
  }
  EXPECT_TRUE(world.comes(&ShardCounters::passed, 30));
  EXPECT_TRUE(world.comes(&ShardCounters::handed_off, 30));
  EXPECT_EQ(world.counters(0).handed_off.read(), 0U);
}

TYPED_TEST(ShardHandoff, WhoWasPassedOnWaitsThere) {
  auto& world = this->make_world({.shards = 3, .room_wait_ms = kShort_ms});
  Backend full = world.add_backend({.shards = {1}, .window = 1});
  const OwnFd first = accepted(world, 0);
  const OwnFd second = world.ask("echo\r\n", 0);
  EXPECT_EQ(read_all(second), kBusyReply);
  EXPECT_TRUE(world.comes(&ShardCounters::passed, 2));
  EXPECT_EQ(world.counters(1).refused[static_cast<std::size_t>(Refusal::kBusy)].read(), 1U);
  EXPECT_EQ(full.take(1).size(), 1U);
}

// The picture that a shard has of the others may be old: its backend is gone when the socket comes.
TYPED_TEST(ShardHandoff, WhoWasPassedOnInVainIsRefused) {
  auto& world = this->make_world({.shards = 2, .room_wait_ms = kShort_ms});
  Backend backend = world.add_backend({.shards = {1}});
  const OwnFd first = accepted(world, 0);
  EXPECT_EQ(backend.take(1).size(), 1U);
  // Shard 1 hears of the end, shard 0 does not.
  for (const bool gone : {false, true}) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    if (gone) {
      message.sink = std::make_unique<handoff::BackendCommand>(
          handoff::RouterMessage::Kind::kBackendGone, backend.id);
    } else {
      auto routes = std::make_unique<handoff::RoutesCommand>();
      routes->entries.push_back({.service = 0});
      message.sink = std::move(routes);
    }
    ASSERT_TRUE(world.mailbox(1).send(std::move(message)));
  }
  const OwnFd second = world.ask("echo\r\n", 0);
  EXPECT_EQ(read_all(second), "-unavailable, no backend at the moment\r\n");
}

TYPED_TEST(ShardHandoff, ABackendThatDrainsIsGivenNoMore) {
  auto& world = this->make_world();
  Backend draining = world.add_backend({.window = 8});
  const OwnFd first = accepted(world);
  world.drain_backend(draining);
  const OwnFd second = world.ask("echo\r\n");
  EXPECT_EQ(read_all(second), "-unavailable, no backend at the moment\r\n");
  Backend other = world.add_backend({.window = 1});
  const OwnFd third = accepted(world);
  EXPECT_EQ(other.take(1).size(), 1U);
  EXPECT_EQ(draining.take(1).size(), 1U) << "what was in its lane stays there";
  world.end_backend(draining);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
}

TYPED_TEST(ShardHandoff, ALaneThatCannotBeWrittenIsReported) {
  auto& world = this->make_world();
  Backend broken = world.add_backend({.window = 8});
  ASSERT_EQ(::shutdown(broken.lanes[0].get(), SHUT_RD), 0);
  const OwnFd client = accepted(world);
  ASSERT_TRUE(world.wait_until(
      [&] { return world.heard().noticed(broken.id, handoff::LaneNotice::kBroken); }));
  EXPECT_EQ(world.heard().amount(broken.id, handoff::LaneNotice::kBroken),
            static_cast<std::uint32_t>(EPIPE));
  // Told '+', so it waits for another one.
  Backend other = world.add_backend();
  expect_talk(client, other.take_one());
  const OwnFd next = accepted(world);
  EXPECT_EQ(other.take(1).size(), 1U);
  world.end_backend(broken);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
}

}  // namespace tcpmux::contract_test
