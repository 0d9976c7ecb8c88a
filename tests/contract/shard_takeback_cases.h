// Cases of a shard: what no backend received comes back, and goes to another one. Included by the
// programs that run them.
#pragma once

#include "tests/contract/shard_handoff_cases.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardTakeback : public ShardTest<Io> {};
TYPED_TEST_SUITE(ShardTakeback, Engines, EngineNames);

TYPED_TEST(ShardTakeback, WhatADeadBackendDidNotReceiveGoesToAnother) {
  for (const std::uint16_t batch : {std::uint16_t{1}, std::uint16_t{4}}) {
    auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
    Backend dead = world.add_backend({.services = {"echo", "time"}, .batch = batch});
    const std::vector<OwnFd> clients = accepted_clients(world, 6);
    const OwnFd other = world.ask("time\r\n");
    EXPECT_EQ(read_line(other), "+\r\n");
    ASSERT_TRUE(world.comes(&ShardCounters::handed_off, 7));
    Backend living = world.add_backend({.batch = batch});
    Backend clock = world.add_backend({.services = {"time"}});
    world.end_backend(dead);
    std::vector<Arrival> arrivals = living.take(6);
    expect_all_talk(clients, arrivals);
    for (const Arrival& arrival : arrivals) {
      EXPECT_EQ(arrival.service, "echo");
      EXPECT_EQ(arrival.destination, endpoint_from(name_of(arrival.socket.get())));
      EXPECT_TRUE(std::equal(arrival.id.begin(), arrival.id.begin() + 8, run_id().begin()));
      EXPECT_GT(arrival.accepted_ns, 0);
    }
    EXPECT_EQ(clock.take_one().service, "time");
    ASSERT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
    EXPECT_EQ(world.heard().lanes[0]->setup.backend, dead.id);
    EXPECT_EQ(world.heard().amount(dead.id, LaneNotice::kTakenBack), 7U);
    EXPECT_EQ(world.count(&ShardCounters::taken_back), 7U);
    dead.receive_now();
    EXPECT_TRUE(dead.received.empty());
  }
}

// The facts are what the first backend would have been told.
TYPED_TEST(ShardTakeback, TheFactsComeWithIt) {
  auto& world = this->make_world();
  Backend first = world.add_backend();
  const OwnFd client = accepted(world);
  const Arrival original = first.take_one();
  const OwnFd later = accepted(world);
  ASSERT_TRUE(world.comes(&ShardCounters::handed_off, 2));
  Backend second = world.add_backend();
  world.end_backend(first);
  const Arrival arrival = second.take_one();
  EXPECT_EQ(arrival.id[15], original.id[15] + 1) << "the number that it was accepted with";
  EXPECT_GE(arrival.accepted_ns, original.accepted_ns);
  EXPECT_EQ(arrival.source, endpoint_from(name_of(later.get())));
}

TYPED_TEST(ShardTakeback, MoreThanThereAreSlotsFor) {
  auto& world = this->make_world({.connections_max = 4, .taken_back_max = 2});
  Backend dead = world.add_backend({.window = 128, .batch = 2});
  const std::vector<OwnFd> clients = accepted_clients(world, 100);
  Backend living = world.add_backend({.window = 4, .batch = 2});
  world.end_backend(dead);
  expect_all_talk(clients, living.take(100));
}

TYPED_TEST(ShardTakeback, ItIsPassedToTheShardThatHasALane) {
  auto& world = this->make_world({.shards = 2});
  Backend dead = world.add_backend({.shards = {0}});
  const std::vector<OwnFd> clients = accepted_clients(world, 5, 0);
  Backend living = world.add_backend({.shards = {1}});
  world.end_backend(dead);
  expect_all_talk(clients, living.take(5));
  EXPECT_EQ(world.counters(0).taken_back.read(), 5U);
  EXPECT_TRUE(world.comes(&ShardCounters::passed, 5));
}

TYPED_TEST(ShardTakeback, ItWaitsForTheNextBackend) {
  auto& world = this->make_world();
  Backend dead = world.add_backend();
  const std::vector<OwnFd> clients = accepted_clients(world, 3);
  world.end_backend(dead);
  ASSERT_TRUE(world.comes(&ShardCounters::taken_back, 3));
  Backend next = world.add_backend();
  expect_all_talk(clients, next.take(3));
}

TYPED_TEST(ShardTakeback, WithoutAnyBackendItIsClosedAtTheDeadline) {
  auto& world = this->make_world({.handoff_deadline_ms = kShort_ms});
  Backend dead = world.add_backend();
  const std::vector<OwnFd> clients = accepted_clients(world, 3);
  world.end_backend(dead);
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_all(client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 3U);
}

TYPED_TEST(ShardTakeback, RawLanesOfADeadBackend) {
  for (const LaneKind kind : {LaneKind::kRawSeqpacket, LaneKind::kRawStream}) {
    auto& world = this->make_world();
    Backend dead = world.add_backend({.kind = kind});
    const std::vector<OwnFd> clients = accepted_clients(world, 4);
    Backend living = world.add_backend();
    world.end_backend(dead);
    const std::vector<Arrival> arrivals = living.take(4);
    expect_all_talk(clients, arrivals);
    for (const Arrival& arrival : arrivals) {
      EXPECT_EQ(arrival.service, "echo");
      EXPECT_EQ(arrival.destination, endpoint_from(name_of(arrival.socket.get())));
    }
  }
}

// The mux sees that a lane is lost while places in it are promised and sockets wait for it.
TYPED_TEST(ShardTakeback, WhatWaitsForAFullLaneGoesToAnother) {
  auto& world = this->make_world();
  Backend dead = world.add_backend({.window = 64, .send_bytes = 1});
  std::vector<OwnFd> clients;
  for (int i = 0; i < 20; ++i)
    clients.push_back(accepted(world));
  ASSERT_TRUE(world.comes(&ShardCounters::lane_full, 1));
  Backend living = world.add_backend({.window = 64});
  world.end_backend(dead);
  expect_all_talk(clients, living.take(20));
}

}  // namespace tcpmux::contract_test
