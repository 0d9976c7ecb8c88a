// Cases of a shard: a new configuration. Included by the programs that run them.
#pragma once

#include "tests/contract/shard_succession.h"

namespace tcpmux::contract_test {

template <class Io>
class ShardChanges : public ShardTest<Io, Held<Io>> {};
TYPED_TEST_SUITE(ShardChanges, Engines, EngineNames);

TYPED_TEST(ShardChanges, AShorterLineInTheMiddleOfOne) {
  for (const std::size_t sent : {63U, 64U, 65U, 100U, 257U, 300U}) {
    auto& world = this->make_world({.line_bytes_max = 512});
    const OwnFd begun = world.ask(std::string(sent, 'x'));
    world.settle();
    ShardSettings settings = world.settings();
    settings.line_bytes_max = 64;
    change_settings(world, settings);
    settle_turns(world);
    EXPECT_TRUE(hears_nothing(begun));
    send_text(begun, "x");
    EXPECT_EQ(read_all(begun), "-too long for a service name\r\n") << sent;
    const OwnFd too_long = world.ask(std::string(64, 'x'));
    EXPECT_EQ(read_all(too_long), "-too long for a service name\r\n");
    const OwnFd fits = world.ask(std::string(62, 'x') + "\n");
    EXPECT_EQ(read_all(fits), "-unknown service\r\n");
  }
}

// Bytes of the line are on their way out of the socket when the bound falls below their number.
TYPED_TEST(ShardChanges, AShorterLineWhileOneIsTaken) {
  auto& world = this->make_world({.line_bytes_max = 512});
  ShardSettings shorter = world.settings();
  shorter.line_bytes_max = 64;
  for (int round = 0; round < 20; ++round) {
    change_settings(world, world.settings());
    const OwnFd client = world.connect();
    world.settle();
    const OwnFd newcomer = in_one_turn_in_order(world, [&] {
      send_text(client, std::string(100, 'x'));
      change_settings(world, shorter);
    });
    settle_turns(world);
    send_text(client, "x");
    EXPECT_EQ(read_line(client), "-too long for a service name\r\n");
  }
}

TYPED_TEST(ShardChanges, ALongerLineInTheMiddleOfOne) {
  auto& world = this->make_world({.line_bytes_max = 64});
  const OwnFd begun = world.ask(std::string(63, 'x'));
  world.settle();
  ShardSettings settings = world.settings();
  settings.line_bytes_max = 512;
  change_settings(world, settings);
  settle_turns(world);
  send_text(begun, std::string(100, 'x') + "\r\n");
  EXPECT_EQ(read_all(begun), "-unknown service\r\n");
}

// A deadline that runs stays; a shorter one overtakes it.
TYPED_TEST(ShardChanges, AShorterDeadlineIsThatOfNewcomers) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const OwnFd before = world.ask("ec");
  world.settle();
  ShardSettings settings = world.settings();
  settings.handshake_deadline_ns = kShort_ms * kNanosPerMilli;
  change_settings(world, settings);
  settle_turns(world);
  const OwnFd after = world.connect();
  EXPECT_EQ(read_all(after), "");
  EXPECT_EQ(world.count(&ShardCounters::timed_out), 1U);
  settings.handshake_deadline_ns = kLong_ms * kNanosPerMilli;
  settings.room_wait_ns = settings.handoff_deadline_ns = kShort_ms * kNanosPerMilli;
  change_settings(world, settings);
  send_text(before, "ho\r\n");
  EXPECT_EQ(read_line(before), "+\r\n");
}

TYPED_TEST(ShardChanges, TheDeadlinesOfWhoWaits) {
  auto& world = this->make_world();
  Backend full = world.add_backend({.window = 1});
  const OwnFd parked = accepted(world);
  ShardSettings settings = world.settings();
  settings.room_wait_ns = settings.handoff_deadline_ns = kShort_ms * kNanosPerMilli;
  change_settings(world, settings);
  const OwnFd waits = world.ask("echo\r\n");
  EXPECT_EQ(read_all(waits), kBusyReply);
  world.end_backend(full);
  EXPECT_EQ(read_all(parked), "");
  EXPECT_EQ(world.count(&ShardCounters::closed_without_backend), 1U);
}

TYPED_TEST(ShardChanges, HelpIsSwitchedOffAndOn) {
  auto& world = this->make_world();
  ShardSettings settings = world.settings();
  for (const bool enabled : {false, true}) {
    settings.help_enabled = enabled;
    const OwnFd begun = world.ask("he");
    world.settle();
    change_settings(world, settings);
    settle_turns(world);
    send_text(begun, "lp\r\n");
    EXPECT_EQ(read_all(begun), enabled ? "echo\r\n" : "-unknown service\r\n");
  }
}

TYPED_TEST(ShardChanges, FewerConnections) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  std::vector<OwnFd> begun;
  for (int i = 0; i < 3; ++i)
    begun.push_back(world.ask("ec"));
  world.settle();
  ShardSettings settings = world.settings();
  settings.connections_max = 1;
  change_settings(world, settings);
  settle_turns(world);
  const OwnFd refused = world.ask("echo\r\n");
  EXPECT_EQ(read_all(refused), kBusyReply);
  for (const OwnFd& client : begun)
    send_text(client, "ho\r\n");
  for (const OwnFd& client : begun)
    EXPECT_EQ(read_line(client), "+\r\n") << "who is there stays";
  EXPECT_EQ(backend.take(3).size(), 3U);
  EXPECT_TRUE(world.wait_until([&] {  // places are free when sockets are in the lane
    const OwnFd next = world.ask("echo\r\n");
    return read_line(next) == "+\r\n";
  }));
}

TYPED_TEST(ShardChanges, AnAddressIsAdded) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64});
  Opened more = open_another(1);
  const OwnFd early = ask_at(more.endpoint, "echo\r\n");
  ShardChange to{.settings = world.settings(), .added = {}, .removed = {}};
  to.added.push_back(std::move(more.listener));
  change(world, std::move(to));
  EXPECT_EQ(read_line(early), "+\r\n") << "it was in the backlog";
  for (const Endpoint& endpoint : {more.endpoint, world.address()}) {
    const OwnFd client = ask_at(endpoint, "echo\r\n");
    EXPECT_EQ(read_line(client), "+\r\n");
  }
}

// Whoever is in its backlog has come before the change: in one turn with it, or while paused.
TYPED_TEST(ShardChanges, AnAddressIsRemovedAndItsBacklogServed) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64});
  std::vector<OwnFd> clients;
  in_one_turn(world, [&] {
    for (int i = 0; i < 5; ++i)
      clients.push_back(world.ask("echo\r\n"));
    change(world, {.settings = world.settings(), .added = {}, .removed = {0}});
  });
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_TRUE(world.wait_until([&] { return refuses_connections(world); }));
  expect_all_talk(clients, backend.take(5));
}

TYPED_TEST(ShardChanges, AnAddressIsRemovedDuringAPause) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64});
  pause(world);
  std::vector<OwnFd> clients;
  for (int i = 0; i < 3; ++i)
    clients.push_back(world.ask("echo\r\n"));
  change(world, {.settings = world.settings(), .added = {}, .removed = {0}});
  settle_turns(world);
  EXPECT_TRUE(refuses_connections(world));
  EXPECT_EQ(world.count(&ShardCounters::accepted), 3U);
  EXPECT_TRUE(hears_nothing(clients[0]));
  resume(world);
  for (const OwnFd& client : clients)
    EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(backend.take(3).size(), 3U);
}

// Accepting is on its way to its end when the address is removed, and removed once more.
TYPED_TEST(ShardChanges, AnAddressIsRemovedWhileThePauseBegins) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64});
  OwnFd client;
  in_one_turn(world, [&] {
    client = world.ask("echo\r\n");
    begin_pause(world);
    for (int i = 0; i < 2; ++i)
      change(world, {.settings = world.settings(), .added = {}, .removed = {0}});
  });
  ASSERT_TRUE(is_paused(world));
  EXPECT_TRUE(refuses_connections(world));
  resume(world);
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(backend.take(1).size(), 1U);
}

TYPED_TEST(ShardChanges, AnAddressIsAddedDuringAPause) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  pause(world);
  Opened more = open_another(1);
  ShardChange to{.settings = world.settings(), .added = {}, .removed = {}};
  to.added.push_back(std::move(more.listener));
  change(world, std::move(to));
  const OwnFd client = ask_at(more.endpoint, "echo\r\n");
  settle_turns(world);
  EXPECT_EQ(world.count(&ShardCounters::accepted), 0U);
  resume(world);
  EXPECT_EQ(read_line(client), "+\r\n");
}

// A shard has as many places for listeners as there may be addresses: those that come wait until
// those that go have gone.
TYPED_TEST(ShardChanges, AllAddressesAreReplacedByOthers) {
  auto& world = this->make_world();
  Backend backend = world.add_backend({.window = 64});
  std::vector<Endpoint> endpoints;
  std::vector<std::uint32_t> numbers = {0};
  in_one_turn(world, [&] {
    for (std::uint32_t round = 1; round <= 3; ++round) {
      ShardChange to{
          .settings = world.settings(), .added = {}, .removed = std::exchange(numbers, {})};
      endpoints.clear();
      for (std::uint32_t i = 0; i < kAcceptsMax; ++i) {
        numbers.push_back(round * 100 + i);
        Opened more = open_another(numbers.back());
        endpoints.push_back(more.endpoint);
        to.added.push_back(std::move(more.listener));
      }
      change(world, std::move(to));
    }
  });
  for (const Endpoint& endpoint : endpoints) {
    const OwnFd client = ask_at(endpoint, "no-such-service\r\n");
    EXPECT_EQ(read_all(client), "-unknown service\r\n");
  }
  EXPECT_TRUE(refuses_connections(world));
  const OwnFd client = ask_at(endpoints.front(), "echo\r\n");
  EXPECT_EQ(read_line(client), "+\r\n");
}

TYPED_TEST(ShardChanges, AnAddressThatOthersHoldTooIsJustLeft) {
  auto& world = this->make_world();
  Opened more = open_another(1);
  const OwnFd copy(::fcntl(more.listener.socket.get(), F_DUPFD_CLOEXEC, 0));
  more.listener.inherited = true;
  ShardChange to{.settings = world.settings(), .added = {}, .removed = {}};
  to.added.push_back(std::move(more.listener));
  change(world, std::move(to));
  pause(world);
  const OwnFd client = connect_to_endpoint(more.endpoint);
  change(world, {.settings = world.settings(), .added = {}, .removed = {1}});
  settle_turns(world);
  EXPECT_EQ(world.count(&ShardCounters::accepted), 0U);
  EXPECT_TRUE(OwnFd(::accept4(copy.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
}

TYPED_TEST(ShardChanges, NothingChangesOnceTheShutdownHasBegun) {
  auto& world = this->make_world();
  const OwnFd begun = world.ask("he");
  world.settle();
  world.begin_shutdown(kLong_ms);
  Opened more = open_another(1);
  ShardSettings settings = world.settings();
  settings.help_enabled = false;
  ShardChange to{.settings = settings, .added = {}, .removed = {0}};
  to.added.push_back(std::move(more.listener));
  change(world, std::move(to));
  settle_turns(world);
  EXPECT_TRUE(nobody_listens(more.endpoint));
  send_text(begun, "lp\r\n");
  EXPECT_EQ(read_all(begun), "echo\r\n");
}

}  // namespace tcpmux::contract_test
