// Cases of a shard: a lane that does not move. Included by the programs that run them.
#pragma once

#include "tests/contract/held_engine.h"
#include "tests/contract/shard_takeback_cases.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardStall : public ShardTest<Io, Held<Io>> {};
TYPED_TEST_SUITE(ShardStall, Engines, EngineNames);

constexpr std::int64_t kStall_ms = 120;

// As many clients, all told '+' in one turn of the shard: before the lane can have stalled.
template <class Io>
std::vector<OwnFd> accepted_at_once(World<Io>& world, std::size_t count, std::uint32_t shard = 0,
                                    std::uint64_t before = 0) {
  std::vector<OwnFd> clients;
  Io::gate.hold(world.shards(), [&] {
    for (std::uint32_t i = 0; i < world.shards(); ++i)
      world.mailbox(i).wake();
  });
  for (std::size_t i = 0; i < count; ++i)
    clients.push_back(world.ask("echo\r\n", shard));
  Io::gate.release();
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_TRUE(world.comes(&ShardCounters::handed_off, before + count));
  return clients;
}

// Not a stall, but it takes a turn that sees several clients, too. On a machine that is slow enough
// the lanes are flushed, and the choice ends, before they are all served: then again.
TYPED_TEST(ShardStall, AMessageIsFilledBeforeAnotherIsBegun) {
  auto& world = this->make_world();
  std::array<Backend, 2> backends = {world.add_backend({.window = 64, .batch = 4}),
                                     world.add_backend({.window = 64, .batch = 4})};
  bool together = false;
  for (int round = 0; round < 100 && !together; ++round) {
    const std::uint64_t before = world.count(&ShardCounters::handed_off);
    const std::vector<OwnFd> clients = accepted_at_once(world, 4, 0, before);
    for (Backend& backend : backends) {
      backend.receive_now();
      together |= std::exchange(backend.received, {}).size() == 4;
    }
  }
  EXPECT_TRUE(together);
}

// Nothing is left in the backend's lane but a probe, and when that is taken the lane serves again.
template <class Io>
bool resumes(World<Io>& world, Backend& stalled) {
  const bool resumed = world.wait_until([&] {
    stalled.receive_now();
    return world.heard().noticed(stalled.id, LaneNotice::kResumed);
  });
  return resumed && stalled.probes == 1 && stalled.received.empty();
}

// A deadline that is shorter than the pause between two looks has passed when the stall is seen.
TYPED_TEST(ShardStall, OthersComeBeforeTheDeadline) {
  auto& world = this->make_world({.stall_ms = kStall_ms, .handoff_deadline_ms = 1});
  Backend stalled = world.add_backend({.window = 8});
  Backend living = world.add_backend({.window = 4});
  const std::vector<OwnFd> clients = accepted_at_once(world, 3);
  expect_all_talk(clients, living.take(3));
  EXPECT_TRUE(world.wait_until(
      [&] { return world.heard().amount(stalled.id, LaneNotice::kTakenBack) == 3; }));
  EXPECT_TRUE(resumes(world, stalled));
}

TYPED_TEST(ShardStall, AStalledLaneIsTakenBackAndServesAgainWhenItMoves) {
  auto& world = this->make_world({.stall_ms = kStall_ms});
  Backend stalled = world.add_backend({.window = 8});
  const std::vector<OwnFd> clients = accepted_at_once(world, 3);
  Backend living = world.add_backend({.window = 8});
  expect_all_talk(clients, living.take(3));
  EXPECT_TRUE(world.heard().noticed(stalled.id, LaneNotice::kStalled));
  EXPECT_TRUE(world.wait_until(
      [&] { return world.heard().amount(stalled.id, LaneNotice::kTakenBack) == 3; }));
  const OwnFd client = accepted(world);
  EXPECT_EQ(living.take(1).size(), 1U) << "nothing goes into a stalled lane";
  EXPECT_FALSE(world.heard().noticed(stalled.id, LaneNotice::kResumed));

  EXPECT_TRUE(resumes(world, stalled));
  world.end_backend(living);
  const OwnFd last = accepted(world);
  EXPECT_EQ(stalled.take(1).size(), 1U);
}

TYPED_TEST(ShardStall, AStalledLaneWithoutAnotherBackendIsLeftAlone) {
  auto& world = this->make_world({.room_wait_ms = kShort_ms, .stall_ms = kStall_ms});
  Backend stalled = world.add_backend({.window = 8});
  const std::vector<OwnFd> clients = accepted_at_once(world, 3);
  ASSERT_TRUE(
      world.wait_until([&] { return world.heard().noticed(stalled.id, LaneNotice::kStalled); }));
  const OwnFd refused = world.ask("echo\r\n");
  EXPECT_EQ(read_all(refused), kBusyReply);
  expect_all_talk(clients, stalled.take(3));
  ASSERT_TRUE(
      world.wait_until([&] { return world.heard().noticed(stalled.id, LaneNotice::kResumed); }));
  const OwnFd served = accepted(world);
  EXPECT_EQ(stalled.take(1).size(), 1U);
  EXPECT_EQ(world.count(&ShardCounters::taken_back), 0U);
}

TYPED_TEST(ShardStall, AStalledLaneExpires) {
  auto& world = this->make_world({.stall_ms = kStall_ms, .handoff_deadline_ms = kShort_ms});
  Backend stalled = world.add_backend({.window = 8});
  const std::vector<OwnFd> clients = accepted_at_once(world, 3);
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_all(client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 3U);
  EXPECT_EQ(world.count(&ShardCounters::taken_back), 3U);
  EXPECT_TRUE(resumes(world, stalled));
}

// All lanes of both shards are stalled: who was told '+' waits, is not thrown to and fro, and is
// closed when its time is over.
TYPED_TEST(ShardStall, TwoShardsWithStalledLanesDoNotPlayBall) {
  auto& world =
      this->make_world({.shards = 2, .stall_ms = kStall_ms, .handoff_deadline_ms = 10 * kShort_ms});
  Backend first = world.add_backend({.shards = {0}});
  Backend second = world.add_backend({.shards = {1}});
  const std::vector<OwnFd> clients = accepted_at_once(world, 3, 0);
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_all(client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 3U);
  // Once in each retry's time at most (5 ms), with as much again for what was before.
  EXPECT_LE(world.count(&ShardCounters::passed), 3U * 2 * 10 * kShort_ms / 5);
}

// Who was passed to a shard that has no room either is passed on when there is some elsewhere.
TYPED_TEST(ShardStall, WhoWaitsBehindPlusIsPassedOnAgain) {
  auto& world = this->make_world({.shards = 2, .stall_ms = kStall_ms});
  Backend stuck = world.add_backend({.shards = {1}});
  const std::vector<OwnFd> clients = accepted_at_once(world, 2, 1);
  ASSERT_TRUE(
      world.wait_until([&] { return world.heard().noticed(stuck.id, LaneNotice::kStalled); }));
  Backend dead = world.add_backend({.shards = {0}});
  ASSERT_TRUE(world.wait_until([&] { return world.counters(1).taken_back.read() >= 2; }));
  world.end_backend(dead);
  ASSERT_TRUE(world.wait_until([&] { return world.counters(0).passed.read() >= 2; }));
  Backend living = world.add_backend({.shards = {0}});
  expect_all_talk(clients, living.take(2));
}

// A raw lane cannot be probed: after a while one socket is risked, and then all is well.
TYPED_TEST(ShardStall, ARawLaneThatStalledIsTriedWithOneSocket) {
  auto& world = this->make_world({.stall_ms = kStall_ms});
  Backend stalled = world.add_backend({.window = 8, .kind = LaneKind::kRawSeqpacket});
  std::vector<OwnFd> clients = accepted_at_once(world, 3);
  Backend living = world.add_backend({.window = 4});
  expect_all_talk(clients, living.take(3));
  world.drain_backend(living);
  clients.push_back(accepted(world));  // waits for the lane to be tried
  EXPECT_EQ(stalled.take(1, LaneKind::kRawSeqpacket).size(), 1U);
  std::vector<OwnFd> more = accepted_at_once(world, 3);
  EXPECT_EQ(stalled.take(3, LaneKind::kRawSeqpacket).size(), 3U) << "and all of its window again";
}

}  // namespace tcpmux::contract_test
