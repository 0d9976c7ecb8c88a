// Cases of a shard: leaving, when a successor has the lanes and the listeners; and what such a
// successor inherits. Included by the programs that run them.
#pragma once

#include "tests/contract/shard_succession.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardLeave : public ShardTest<Io, Held<Io>> {};
TYPED_TEST_SUITE(ShardLeave, Engines, EngineNames);

template <class Io>
void leave(World<Io>& world) {
  world.tell_all(ShardMessage::Kind::kLeave);
}
template <class Io>
bool is_done(World<Io>& world) {
  return world.wait_until([&] { return world.heard().shards_done == world.shards(); });
}
// How much of its line a socket that was passed still has, with all that is behind it.
inline std::string in_the_socket(const PassedConnection& passed, std::size_t size) {
  return receive_text(passed.socket.get(), size);
}

TYPED_TEST(ShardLeave, ListenersAreClosedAndNobodyIsReset) {
  auto& world = this->make_world({.starts = false});
  const OwnFd listener = world.copy_of_listener();
  world.start();
  world.settle();
  pause(world);
  const OwnFd before = world.ask("before");
  leave(world);
  EXPECT_TRUE(is_done(world));
  const OwnFd after = world.ask("after");
  for (const std::string_view text : {"before", "after"}) {
    const OwnFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(accepted.valid());
    EXPECT_EQ(receive_text(accepted.get(), text.size()), text);
  }
  EXPECT_EQ(world.count(&ShardCounters::accepted), 1U) << "they are the successor's";
  EXPECT_EQ(world.refused(Refusal::kShuttingDown), 0U);
}

TYPED_TEST(ShardLeave, ALineIsFinishedAndPassedOn) {
  auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
  Backend backend = world.add_backend({.services = {"echo", "time"}});
  const OwnFd begun = world.ask("ti");
  const OwnFd silent = world.connect();
  world.settle();
  const std::int64_t now_ns = realtime_ns();
  pause(world);
  leave(world);
  send_text(begun, "me\r\n!");
  PassedConnection passed = passed_on(world);
  EXPECT_EQ(passed.service, 1U);
  EXPECT_EQ(passed.line_bytes, 4U) << "what is left of the line";
  EXPECT_FALSE(passed.was_accepted);
  EXPECT_EQ(passed.deadline_ns, kNever_ns);
  EXPECT_GT(passed.accepted_ns, now_ns - 60 * kNanosPerSecond);
  EXPECT_LE(passed.accepted_ns, now_ns);
  EXPECT_EQ(in_the_socket(passed, 5), "me\r\n!");
  EXPECT_TRUE(hears_nothing(begun)) << "there is no '+' without a place";
  EXPECT_EQ(world.heard().shards_done, 0U);

  send_text(silent, "ECHO\n?");
  passed = passed_on(world);
  EXPECT_EQ(passed.service, 0U);
  EXPECT_EQ(passed.line_bytes, 5U);
  EXPECT_EQ(in_the_socket(passed, 6), "ECHO\n?");
  EXPECT_TRUE(is_done(world));
  EXPECT_EQ(world.count(&ShardCounters::passed_on), 2U);
}

TYPED_TEST(ShardLeave, WhoIsParkedIsPassedOnAtOnce) {
  auto& world = this->make_world({.handoff_deadline_ms = kLong_ms / 2});
  Backend dead = world.add_backend();
  const std::int64_t before_ns = monotonic_ns();
  const OwnFd parked = accepted(world);
  ASSERT_TRUE(world.comes(&ShardCounters::handed_off, 1));
  world.end_backend(dead);
  ASSERT_TRUE(world.comes(&ShardCounters::taken_back, 1));
  pause(world);
  leave(world);
  const PassedConnection passed = passed_on(world);
  EXPECT_TRUE(passed.was_accepted);
  EXPECT_EQ(passed.line_bytes, 0U);
  constexpr std::int64_t kDeadline_ns = kLong_ms / 2 * kNanosPerMilli;
  EXPECT_GE(passed.deadline_ns, before_ns + kDeadline_ns) << "which has begun already";
  EXPECT_LE(passed.deadline_ns, monotonic_ns() + kDeadline_ns);
  EXPECT_EQ(passed.source, endpoint_from(name_of(parked.get())));
  EXPECT_TRUE(is_done(world));
}

TYPED_TEST(ShardLeave, WhoWaitedDuringThePauseIsPassedOn) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 1});
  const OwnFd in_the_lane = accepted(world);
  const OwnFd waits = world.ask("echo\r\n!");
  world.settle();
  pause(world);
  settle_turns(world);
  EXPECT_TRUE(world.heard().passed_on.empty()) << "it may yet be for nothing";
  leave(world);
  const PassedConnection passed = passed_on(world);
  EXPECT_FALSE(passed.was_accepted);
  EXPECT_EQ(passed.line_bytes, 6U);
  EXPECT_EQ(in_the_socket(passed, 7), "echo\r\n!");
  EXPECT_EQ(backend.take(1).size(), 1U) << "what is in the lane is in the lane";
  EXPECT_TRUE(is_done(world));
}

TYPED_TEST(ShardLeave, WhoNeedsNoLaneIsServedByTheOneThatLeaves) {
  auto& world = this->make_world(
      {.services = {{.name = "echo"}, {.name = "closed", .access = deny_loopback()}}});
  std::vector<std::pair<OwnFd, std::pair<std::string, std::string>>> clients;
  for (const auto& [line, answer] :
       std::map<std::string, std::string>{{"help\r\n", "closed\r\necho\r\n"},
                                          {"nobody\r\n", "-unknown service\r\n"},
                                          {"closed\r\n", "-denied to your address\r\n"},
                                          {"\r\n", "-invalid service name\r\n"}})
    clients.emplace_back(world.connect(), std::pair(line, answer));
  const OwnFd gone = world.ask("ec");
  world.settle();
  pause(world);
  leave(world);
  for (auto& [client, talk] : clients) {
    send_text(client, talk.first);
    EXPECT_EQ(read_all(client), talk.second);
  }
  EXPECT_EQ(world.heard().shards_done, 0U);
  finish_writing(gone);
  for (auto& [client, talk] : clients)
    client.reset();
  EXPECT_TRUE(is_done(world));
  EXPECT_EQ(world.count(&ShardCounters::peer_gone), 1U);
  EXPECT_EQ(world.count(&ShardCounters::passed_on), 0U);
}

TYPED_TEST(ShardLeave, WhoIsSilentIsNotWaitedForForever) {
  auto& world = this->make_world({.handshake_deadline_ms = 4 * kShort_ms});
  const OwnFd silent = world.ask("ec");
  ASSERT_TRUE(world.comes(&ShardCounters::accepted, 1));
  pause(world);
  leave(world);
  EXPECT_EQ(read_all(silent), "");
  EXPECT_EQ(world.count(&ShardCounters::timed_out), 1U);
  EXPECT_TRUE(is_done(world));
}

// The steward's word that all is at an end comes when the shard is leaving anyway.
TYPED_TEST(ShardLeave, AShutdownChangesNothing) {
  auto& world = this->make_world();
  const OwnFd begun = world.ask("ec");
  world.settle();
  pause(world);
  leave(world);
  world.begin_shutdown(0);
  settle_turns(world);
  send_text(begun, "ho\r\n");
  EXPECT_EQ(passed_on(world).line_bytes, 4U);
  EXPECT_TRUE(is_done(world));
}

// From a shard that leaves to one that comes after it: who has not been told '+' and who has.
TYPED_TEST(ShardLeave, TheSuccessorServesWhoIsPassedOn) {
  auto& world = this->make_world({.services = {{.name = "echo"}, {.name = "time"}}});
  Backend dead = world.add_backend({.services = {"time"}});
  const OwnFd told = world.ask("time\r\n");
  EXPECT_EQ(read_line(told), "+\r\n");
  ASSERT_TRUE(world.comes(&ShardCounters::handed_off, 1));
  world.end_backend(dead);
  ASSERT_TRUE(world.comes(&ShardCounters::taken_back, 1));
  const OwnFd begun = world.ask("ec");
  world.settle();
  pause(world);
  leave(world);
  PassedConnection of_told = passed_on(world);
  send_text(begun, "ho\r\nbehind\n");
  PassedConnection of_begun = passed_on(world);

  World<Held<TypeParam>> successor(
      WorldOptions{.services = {{.name = "another"}, {.name = "Time"}, {.name = "echo"}}});
  Backend backend = successor.add_backend({.services = {"time", "echo"}});
  of_told.service = 1;
  of_told.id = 0xABCDEF;
  of_begun.service = 2;
  inherit(successor, std::move(of_told));
  const Arrival first = backend.take_one();
  EXPECT_EQ(first.service, "Time");
  EXPECT_EQ(first.source, endpoint_from(name_of(told.get())));
  EXPECT_NE(first.id[13], 0xAB) << "ids are those of the new process";
  expect_talk(told, first);
  inherit(successor, std::move(of_begun));
  EXPECT_EQ(read_line(begun), "+\r\n");
  const Arrival second = backend.take_one();
  EXPECT_EQ(second.service, "echo");
  EXPECT_EQ(second.source, endpoint_from(name_of(begun.get())));
  EXPECT_NE(first.id, second.id);
  EXPECT_EQ(receive_text(second.socket.get(), 7), "behind\n");
  expect_talk(begun, second);
  successor.stop();
  EXPECT_EQ(successor.count(&ShardCounters::inherited), 2U);
  EXPECT_EQ(successor.count(&ShardCounters::accepted), 0U);
  EXPECT_EQ(successor.begins(), successor.ends());
}

TYPED_TEST(ShardLeave, TheSuccessorKnowsTheDeadlineOfWhoWaits) {
  auto& world = this->make_world();
  Connection made = make_connection();
  inherit(world, {.socket = std::move(made.server),
                  .service = 0,
                  .was_accepted = true,
                  .deadline_ns = monotonic_ns() + kShort_ms * kNanosPerMilli});
  EXPECT_EQ(read_all(made.client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 1U);
}

// A name that the process before us knew, and we do not; also where it was told '+'.
TYPED_TEST(ShardLeave, TheSuccessorDoesNotKnowTheService) {
  auto& world = this->make_world({.handoff_deadline_ms = kShort_ms});
  Backend backend = world.add_backend();
  Connection refused = make_connection();
  send_text(refused.client, "gone\r\nand more");
  inherit(world, {.socket = std::move(refused.server), .line_bytes = 6});
  EXPECT_EQ(read_all(refused.client), "-unknown service\r\n");
  Connection told = make_connection();
  inherit(world, {.socket = std::move(told.server), .was_accepted = true});
  EXPECT_EQ(read_all(told.client), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 1U);
  EXPECT_EQ(world.refused(Refusal::kUnknown), 1U);
}

// Configured, and nobody serves it.
TYPED_TEST(ShardLeave, TheSuccessorHasNoBackend) {
  auto& world = this->make_world();
  Connection made = make_connection();
  send_text(made.client, "echo\r\n");
  inherit(world, {.socket = std::move(made.server), .service = 0, .line_bytes = 6});
  EXPECT_EQ(read_all(made.client), "-unavailable, no backend at the moment\r\n");
}

}  // namespace tcpmux::contract_test
