// Cases of a shard: the end. Included by the programs that run them.
#pragma once

#include "tests/contract/held_engine.h"
#include "tests/contract/shard_handoff_cases.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardShutdown : public ShardTest<Io> {};
TYPED_TEST_SUITE(ShardShutdown, Engines, EngineNames);

TYPED_TEST(ShardShutdown, FinishesWhatHasBegun) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  const OwnFd begun = world.ask("ec");
  const OwnFd asks_for_the_list = world.connect();
  world.settle();
  world.begin_shutdown(kLong_ms);
  ASSERT_TRUE(world.wait_until([&] { return refuses_connections(world); }));
  EXPECT_EQ(world.heard().shards_done, 0U);
  send_text(begun, "ho\r\n!");
  EXPECT_EQ(read_line(begun), "+\r\n");
  EXPECT_EQ(receive_text(backend.take_one().socket.get(), 1), "!");
  send_text(asks_for_the_list, "help\r\n");
  EXPECT_EQ(read_all(asks_for_the_list), "echo\r\n");
}

TYPED_TEST(ShardShutdown, TurnsAwayWhoeverHasNotComeFarEnough) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  const OwnFd accepted_one = accepted(world);
  const OwnFd silent = world.connect();
  const OwnFd begun = world.ask("ec");
  const OwnFd waits_for_room = world.ask("echo\r\n");
  world.settle();
  world.begin_shutdown(0);
  for (const OwnFd* client : {&silent, &begun, &waits_for_room})
    EXPECT_EQ(read_all(*client), kShuttingDownReply);
  EXPECT_EQ(world.refused(Refusal::kShuttingDown), 3U);
  EXPECT_EQ(backend.take(1).size(), 1U) << "what is in a lane is the backend's";
}

TYPED_TEST(ShardShutdown, ClosesWhoeverWaitsForABackend) {
  auto& world = this->make_world();
  Backend dead = world.add_backend();
  const OwnFd client = accepted(world);
  world.end_backend(dead);
  ASSERT_TRUE(world.comes(&ShardCounters::taken_back, 1));
  world.begin_shutdown(0);
  EXPECT_EQ(read_all(client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 1U);
}

TYPED_TEST(ShardShutdown, TellsThoseWhoWereNotYetAccepted) {
  auto& world = this->make_world({.starts = false});
  std::vector<OwnFd> clients;
  for (int i = 0; i < 3; ++i)
    clients.push_back(world.connect());
  world.begin_shutdown(0);
  world.start();
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_all(client), kShuttingDownReply);
  EXPECT_TRUE(world.wait_until([&] { return world.refused(Refusal::kShuttingDown) == 3; }));
}

TYPED_TEST(ShardShutdown, GivesLanesBackFirst) {
  auto& world = this->make_world();
  Backend dead = world.add_backend({.window = 64});
  std::vector<OwnFd> clients;
  for (int i = 0; i < 30; ++i)
    clients.push_back(accepted(world));
  Backend living = world.add_backend({.window = 64});
  world.end_backend(dead);
  world.begin_shutdown(kLong_ms);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().shards_done == 1; }));
  EXPECT_EQ(world.heard().lanes.size(), 1U);
  EXPECT_EQ(living.take(30).size(), 30U);
}

// A shard that is done lives on until all are, because another may still pass it a connection.
TYPED_TEST(ShardShutdown, AShardThatIsDoneStillServesTheOthers) {
  auto& world = this->make_world({.shards = 2});
  Backend backend = world.add_backend({.shards = {1}});
  const OwnFd client = world.ask("ec", 0);
  world.settle(0);
  world.begin_shutdown(kLong_ms);
  ASSERT_TRUE(world.wait_until([&] { return world.heard().shards_done == 1; }));
  send_text(client, "ho\r\n");
  EXPECT_EQ(read_line(client), "+\r\n");
  expect_talk(client, backend.take_one());
}

template <class Io>
class ShardShutdownHeld : public ShardTest<Io, Held<Io>> {};
TYPED_TEST_SUITE(ShardShutdownHeld, Engines, EngineNames);

// The shutdown comes in the turn in which a newcomer is accepted: its line is read before the peek
// can be cancelled, and the answer is still why it is turned away.
TYPED_TEST(ShardShutdownHeld, ALineThatComesWithTheShutdown) {
  for (const std::string_view line : {"echo\r\n", "nobody\r\n", "help\r\n", " \r\n", "ec"}) {
    auto& world = this->make_world();
    Backend backend = world.add_backend();
    Gate& gate = Held<TypeParam>::gate;
    gate.hold(1, [&] { world.mailbox().wake(); });
    const OwnFd client = world.ask(line);
    world.begin_shutdown(0);
    gate.release();
    EXPECT_EQ(read_all(client), kShuttingDownReply) << line;
  }
}

// The handshake's own deadline comes before that of the shutdown.
TYPED_TEST(ShardShutdownHeld, TellsWhoseTimeIsOverMeanwhile) {
  auto& world = this->make_world({.handshake_deadline_ms = kShort_ms});
  Gate& gate = Held<TypeParam>::gate;
  gate.hold(1, [&] { world.mailbox().wake(); });
  const OwnFd client = world.ask("ec");
  world.begin_shutdown(kLong_ms);
  gate.release();
  EXPECT_EQ(read_all(client), kShuttingDownReply);
  EXPECT_EQ(world.count(&ShardCounters::timed_out), 0U);
}

}  // namespace tcpmux::contract_test
