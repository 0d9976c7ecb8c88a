// Cases of a shard: a pause, in which it has no lanes, and going on after it. Included by the
// programs that run them.
#pragma once

#include "tests/contract/late_engine.h"
#include "tests/contract/shard_succession.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardPause : public ShardTest<Io, Held<Io>> {};
TYPED_TEST_SUITE(ShardPause, Engines, EngineNames);

TYPED_TEST(ShardPause, WhoConnectsMeanwhileIsServedAfterwards) {
  auto& world = this->make_world({.shards = 2});
  Backend backend = world.add_backend({.shards = {0, 1}});
  pause(world);
  std::vector<OwnFd> clients;
  for (std::uint32_t i = 0; i < 6; ++i)
    clients.push_back(world.ask("echo\r\n", i % 2));
  settle_turns(world);
  EXPECT_EQ(world.count(&ShardCounters::accepted), 0U) << "they wait in the backlog";
  resume(world);
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_line(client), "+\r\n");
  expect_all_talk(clients, backend.take(6));
}

TYPED_TEST(ShardPause, LanesComeBackWithWhatIsInTheirQueues) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 5});
  Backend idle = world.add_backend({.services = {"echo"}, .window = 1});
  world.drain_backend(idle);
  const std::vector<OwnFd> clients = accepted_clients(world, 5);
  for (int i = 0; i < 2; ++i) {
    std::array<std::byte, 1024> buffer;
    OwnFd taken;
    EXPECT_EQ(handoff::receive(backend.lanes[0].get(), buffer, {&taken, 1}, 0).descriptors, 1U);
  }
  pause(world);
  auto& lanes = world.heard().lanes;
  ASSERT_EQ(lanes.size(), 2U) << "also one that drains";
  const auto found = std::find_if(lanes.begin(), lanes.end(), [&](const auto& lane) {
    return lane->setup.backend == backend.id;
  });
  ASSERT_NE(found, lanes.end());
  const handoff::Lane& lane = **found;
  int waiting_bytes = 0;
  ASSERT_EQ(::ioctl(lane.setup.copy_of_theirs.get(), FIONREAD, &waiting_bytes), 0);
  std::uint32_t bytes = 0;
  for (const handoff::Lane::Message& message : lane.waiting()) {
    EXPECT_EQ(message.sockets, 1U);
    bytes += message.bytes;
  }
  EXPECT_EQ(lane.waiting().size(), 3U);
  EXPECT_EQ(bytes, static_cast<std::uint32_t>(waiting_bytes));
  EXPECT_EQ(lane.queued(), lane.waiting().size());
  EXPECT_EQ(lane.reserved, 0U);
  EXPECT_EQ(lane.collected, 0U);
  EXPECT_FALSE(lane.linked);
}

// Without its books it would promise more places than it has, or fewer.
TYPED_TEST(ShardPause, ALaneServesAgainWithTheSameWindow) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 3});
  std::vector<OwnFd> clients = accepted_clients(world, 2);
  for (int round = 0; round < 2; ++round) {
    pause(world);
    resume(world);
  }
  clients.push_back(accepted(world));
  clients.push_back(world.ask("echo\r\n"));
  world.settle();
  EXPECT_TRUE(hears_nothing(clients.back())) << "three are in the lane";
  std::vector<Arrival> arrivals = backend.take(3);
  EXPECT_EQ(read_line(clients.back()), "+\r\n");
  while (arrivals.size() < 4)
    arrivals.push_back(backend.take_one());
  expect_all_talk(clients, arrivals);
  EXPECT_EQ(world.count(&ShardCounters::taken_back), 0U);
}

// Nothing tells the new holder of a lane when its queue moved last, but what came with it.
TYPED_TEST(ShardPause, AStallGoesOnBeingOne) {
  auto& world = this->make_world({.stall_ms = 3 * kShort_ms});
  Backend stalled = world.add_backend({.window = 8});
  const OwnFd first = accepted(world);
  ASSERT_TRUE(
      world.wait_until([&] { return world.heard().noticed(stalled.id, LaneNotice::kStalled); }));
  pause(world);
  ASSERT_EQ(world.heard().lanes.size(), 1U);
  EXPECT_TRUE(world.heard().lanes[0]->stalled);
  resume(world);
  const OwnFd waits = world.ask("echo\r\n");
  world.settle();
  EXPECT_TRUE(hears_nothing(waits)) << "nothing goes into a stalled lane";
  Backend living = world.add_backend({.window = 8});
  EXPECT_EQ(living.take(2).size(), 2U);
  EXPECT_TRUE(world.wait_until(
      [&] { return world.heard().amount(stalled.id, LaneNotice::kTakenBack) == 1; }));
  EXPECT_EQ(read_line(waits), "+\r\n");
}

TYPED_TEST(ShardPause, AClientInTheMiddleOfItsLine) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const OwnFd begun = world.ask("ec");
  const OwnFd asks_for_the_list = world.ask("he");
  world.settle();
  pause(world);
  send_text(begun, "ho\r\n!");
  send_text(asks_for_the_list, "lp\r\n");
  EXPECT_EQ(read_all(asks_for_the_list), "echo\r\n") << "needs no lane";
  settle_turns(world);
  EXPECT_TRUE(hears_nothing(begun)) << "without a place there is no '+'";
  resume(world);
  EXPECT_EQ(read_line(begun), "+\r\n");
  EXPECT_EQ(receive_text(backend.take_one().socket.get(), 1), "!");
}

// The place was promised, so '+' goes out; the lane is away when it has. Whether the line comes
// before the pause in the turn that sees both is up to the kernel: until it did.
TYPED_TEST(ShardPause, APlaceIsOwedWhenTheLaneGoes) {
  bool was_owed = false;
  for (int round = 0; round < 100 && !was_owed; ++round) {
    auto& world = this->make_world({.lanes_max = 1});
    Backend backend = world.add_backend({.window = 1});
    const OwnFd client = world.connect();
    world.settle();
    const OwnFd newcomer = in_one_turn_in_order(world, [&] {
      send_text(client, "echo\r\n!");
      begin_pause(world);
    });
    ASSERT_TRUE(is_paused(world));
    settle_turns(world);
    ASSERT_EQ(world.heard().lanes.size(), 1U);
    EXPECT_EQ(world.heard().lanes[0]->reserved, 0U) << "its next holder owes nothing";
    was_owed = !hears_nothing(client) && world.heard().lanes[0]->queue_is_empty();
    resume(world);
    EXPECT_EQ(read_line(client), "+\r\n");
    const OwnFd next = world.ask("echo\r\n");
    world.settle();
    EXPECT_TRUE(hears_nothing(next)) << "there is one place, and it is taken";
    EXPECT_EQ(receive_text(backend.take_one().socket.get(), 1), "!");
    EXPECT_EQ(read_line(next), "+\r\n");
    EXPECT_EQ(backend.take(1).size(), 1U);
  }
  EXPECT_TRUE(was_owed);
}

// It stands in the list of the lane's next message when the lane goes.
TYPED_TEST(ShardPause, WhoWasToGoIntoTheNextMessageWaitsForTheLane) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 8, .batch = 4});
  std::array<Connection, 3> made = {make_connection(), make_connection(), make_connection()};
  in_one_turn(world, [&] {
    for (Connection& one : made)
      inherit(world, {.socket = std::move(one.server), .service = 0, .was_accepted = true});
    begin_pause(world);
  });
  ASSERT_TRUE(is_paused(world));
  ASSERT_EQ(world.heard().lanes.size(), 1U);
  EXPECT_TRUE(world.heard().lanes[0]->queue_is_empty());
  EXPECT_EQ(world.heard().lanes[0]->collected, 0U);
  resume(world);
  std::vector<OwnFd> clients;
  for (Connection& one : made)
    clients.push_back(std::move(one.client));
  expect_all_talk(clients, backend.take(3));
}

TYPED_TEST(ShardPause, WhoIsParkedOrWaitsForRoomStays) {
  auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
  Backend dead = world.add_backend();
  Backend clock = world.add_backend({.services = {"time"}, .window = 1});
  const OwnFd parked = accepted(world);
  world.end_backend(dead);
  ASSERT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
  world.heard().lanes.clear();  // it has ended, and is not to come again
  const OwnFd in_the_lane = world.ask("time\r\n");
  EXPECT_EQ(read_line(in_the_lane), "+\r\n");
  const OwnFd waits = world.ask("time\r\n!");
  world.settle();
  pause(world);
  settle_turns(world);
  resume(world);
  EXPECT_EQ(clock.take(1).size(), 1U);
  EXPECT_EQ(read_line(waits), "+\r\n");
  EXPECT_EQ(receive_text(clock.take_one().socket.get(), 1), "!");
  Backend living = world.add_backend();
  expect_talk(parked, living.take_one());
}

TYPED_TEST(ShardPause, DeadlinesGoOn) {
  auto& world = this->make_world({.handshake_deadline_ms = 10 * kShort_ms,
                                  .room_wait_ms = kShort_ms,
                                  .handoff_deadline_ms = kShort_ms});
  Backend dead = world.add_backend({.window = 1});
  const OwnFd silent = world.connect();
  const OwnFd begun = world.ask("ec");
  const OwnFd parked = accepted(world);
  pause(world);
  world.heard().lanes.clear();
  send_text(begun, "ho\r\n");
  EXPECT_EQ(read_all(begun), kBusyReply);
  EXPECT_EQ(read_all(silent), "");
  EXPECT_EQ(world.count(&ShardCounters::timed_out), 1U);
  dead.lanes.clear();
  EXPECT_EQ(read_all(parked), "") << "it was in the lane, which has gone";
}

// A backend that ended before the pause: its lane may have been on its way back already, and those
// that find out who is gone tell it again.
TYPED_TEST(ShardPause, ALaneWhoseBackendEndedComesAgain) {
  auto& world = this->make_world();
  Backend dead = world.add_backend();
  world.end_backend(dead);
  ASSERT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
  pause(world);
  world.tell_all(ShardMessage::Kind::kResume);
  // The shard turns between what belongs together.
  give_lanes(world);
  settle_turns(world);
  EXPECT_TRUE(world.heard().lanes.empty()) << "nobody has said yet that its backend is gone";
  world.end_backend(dead);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().lanes.size() == 1; }));
  EXPECT_EQ(read_all(world.ask("echo\r\n")), "-unavailable, no backend at the moment\r\n");
  world.begin_shutdown(kLong_ms);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().shards_done == 1; }));
}

// It wants no more, so who waits for a lane must not get into this one as it comes.
TYPED_TEST(ShardPause, ALaneThatDrainsTakesNobodyWhenItComesBack) {
  auto& world = this->make_world();
  Backend draining = world.add_backend();
  const OwnFd begun = world.ask("ec");
  const OwnFd in_the_lane = accepted(world);
  pause(world);
  send_text(begun, "ho\r\n");
  settle_turns(world);
  ASSERT_EQ(world.heard().lanes.size(), 1U);
  world.heard().lanes[0]->drained = true;
  resume(world);
  EXPECT_EQ(read_all(begun), "-unavailable, no backend at the moment\r\n");
  expect_talk(in_the_lane, draining.take_one());
}

TYPED_TEST(ShardPause, APauseThatIsTakenBackAtOnce) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  in_one_turn(world, [&] {
    for (int i = 0; i < 3; ++i) {
      world.tell_all(ShardMessage::Kind::kPause);
      world.tell_all(ShardMessage::Kind::kResume);
    }
  });
  const OwnFd served = accepted(world);
  expect_talk(served, backend.take_one());
  in_one_turn(world, [&] {
    world.tell_all(ShardMessage::Kind::kPause);
    world.tell_all(ShardMessage::Kind::kResume);
    begin_pause(world);
  });
  ASSERT_TRUE(is_paused(world));
  EXPECT_EQ(world.heard().lanes.size(), 1U);
  const OwnFd client = world.ask("echo\r\n");
  settle_turns(world);
  EXPECT_EQ(world.heard().shards_paused, 1U) << "said once";
  EXPECT_EQ(world.count(&ShardCounters::accepted), 1U);
  resume(world);
  EXPECT_EQ(read_line(client), "+\r\n");
}

TYPED_TEST(ShardPause, AShutdownDuringThePause) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  const OwnFd in_the_lane = accepted(world);
  const OwnFd waits = world.ask("echo\r\n");
  world.settle();
  pause(world);
  const OwnFd in_the_backlog = world.ask("echo\r\n");
  world.begin_shutdown(kLong_ms);
  EXPECT_EQ(read_all(in_the_backlog), kShuttingDownReply);
  resume(world);
  EXPECT_EQ(backend.take(1).size(), 1U);
  EXPECT_EQ(read_line(waits), "+\r\n") << "it had begun";
  EXPECT_EQ(backend.take(1).size(), 1U);
  EXPECT_TRUE(world.wait_until([&] { return world.heard().shards_done == 1; }));
  EXPECT_TRUE(refuses_connections(world)) << "it does not begin to listen again";
}

// From the process before us, which knew what we do not.
TYPED_TEST(ShardPause, AStrangerThatIsInheritedMeanwhile) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  pause(world);
  Connection made = make_connection();
  send_text(made.client, "gone\r\n");
  inherit(world, {.socket = std::move(made.server), .line_bytes = 6});
  settle_turns(world);
  EXPECT_TRUE(hears_nothing(made.client));
  resume(world);
  EXPECT_EQ(read_all(made.client), "-unknown service\r\n");
}

template <class Io>
class ShardPauseLate : public ShardTest<Io, Late<Io>> {};
TYPED_TEST_SUITE(ShardPauseLate, Engines, EngineNames);

// A number that is owed is nobody's until the reply is sent, so a lane that comes back gets another
// one. There are two for each lane: the next pause waits.
TYPED_TEST(ShardPauseLate, ThePauseAfterAPauseWaitsForWhatIsOwed) {
  using Engine = Late<TypeParam>;
  auto& world = this->make_world({.lanes_max = 1});
  Backend backend = world.add_backend({.window = 4});
  Engine::keeps_replies = true;
  std::vector<OwnFd> clients;
  clients.push_back(accepted(world));
  pause(world);
  ASSERT_EQ(world.heard().lanes.size(), 1U);
  resume(world);
  clients.push_back(accepted(world));
  begin_pause(world);
  const std::uint64_t before = Engine::waits;
  ASSERT_TRUE(world.wait_until([&] {
    world.mailbox(0).wake();
    return Engine::waits > before + 3;
  }));
  EXPECT_EQ(world.heard().shards_paused, 0U);
  Engine::keeps_replies = false;
  world.mailbox(0).wake();
  ASSERT_TRUE(is_paused(world));
  resume(world);
  expect_all_talk(clients, backend.take(2));
}

}  // namespace tcpmux::contract_test
