// Cases of a shard: from accept to '+' or '-'. Included by the programs that run them.
#pragma once

#include <sys/ioctl.h>

#include "tests/contract/shard_clients.h"

namespace tcpmux::contract_test {

using namespace std::string_literals;

template <class Io>
class ShardHandshake : public ShardTest<Io> {};
TYPED_TEST_SUITE(ShardHandshake, Engines, EngineNames);

// Refused with exactly this, and the end is a FIN.
template <class Io>
void expect_answer(World<Io>& world, std::string_view line, std::string_view answer) {
  const OwnFd client = world.ask(line);
  EXPECT_EQ(read_all(client), answer) << line;
}

TYPED_TEST(ShardHandshake, AcceptsAndHandsTheSocketOver) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const std::int64_t before_ns = realtime_ns();
  const OwnFd client = world.ask("echo\r\n");
  EXPECT_EQ(read_line(client), "+\r\n");
  Arrival arrival = backend.take_one();
  EXPECT_EQ(arrival.service, "echo");
  EXPECT_EQ(arrival.source, endpoint_from(name_of(client.get())));
  EXPECT_EQ(arrival.destination, endpoint_from(name_of(arrival.socket.get())));
  EXPECT_GE(arrival.accepted_ns, before_ns);
  EXPECT_LE(arrival.accepted_ns, realtime_ns());
  EXPECT_TRUE(std::equal(arrival.id.begin(), arrival.id.begin() + 8, run_id().begin()));
  EXPECT_TRUE(is_blocking(arrival.socket.get()));
  expect_talk(client, arrival);
  arrival.socket.reset();
  EXPECT_EQ(read_all(client), "") << "no copy of the mux keeps it open";
  EXPECT_EQ(world.count(&ShardCounters::accepted), 1U);
  EXPECT_TRUE(world.comes(&ShardCounters::handed_off, 1));
  EXPECT_EQ(world.count(&ShardCounters::messages), 1U);
}

TYPED_TEST(ShardHandshake, EachConnectionHasAnIdOfItsOwn) {
  auto& world = this->make_world({.shards = 2});
  Backend backend = world.add_backend({.shards = {0, 1}});
  std::vector<OwnFd> clients;
  for (std::uint32_t i = 0; i < 8; ++i)
    clients.push_back(world.ask("echo\n", i % 2));
  std::map<handoff::ConnectionId, int> ids;
  for (const Arrival& arrival : backend.take(8))
    ++ids[arrival.id];
  EXPECT_EQ(ids.size(), 8U);
}

TYPED_TEST(ShardHandshake, NamesInAnyCaseAndWithEitherLineEnd) {
  auto& world = this->make_world({.services = {{.name = "Echo", .message = "at your service"}}});
  Backend backend = world.add_backend({.services = {"echo"}});
  for (const std::string_view line : {"echo\r\n", "ECHO\r\n", "eChO\n", "Echo\n"}) {
    const OwnFd client = world.ask(line);
    EXPECT_EQ(read_line(client), "+at your service\r\n");
    EXPECT_EQ(backend.take_one().service, "Echo");
  }
}

TYPED_TEST(ShardHandshake, LeavesWhatStandsBehindTheLine) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  for (const std::string_view end : {"\r\n", "\n"}) {
    const std::string early = "\r\nHELP\r\n\0\xFF"s + std::string(5000, 'e');
    const OwnFd client = world.ask("echo" + std::string(end) + early);
    EXPECT_EQ(read_line(client), "+\r\n");
    const Arrival arrival = backend.take_one();
    EXPECT_EQ(receive_text(arrival.socket.get(), early.size()), early);
    int left = -1;
    ASSERT_EQ(::ioctl(arrival.socket.get(), FIONREAD, &left), 0);
    EXPECT_EQ(left, 0);
    expect_talk(client, arrival);
  }
}

TYPED_TEST(ShardHandshake, AReplyThatIsHeldBackComesWithTheBackendsBytes) {
  auto& world = this->make_world({.services = {{.name = "echo", .coalesce_reply = true}}});
  Backend backend = world.add_backend();
  const OwnFd client = world.ask("echo\r\n");
  const Arrival arrival = backend.take_one();
  send_text(arrival.socket, "hello\n");
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(read_line(client), "hello\n");
}

TYPED_TEST(ShardHandshake, ByteByByte) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const OwnFd client = world.connect();
  const int on = 1;
  ASSERT_EQ(::setsockopt(client.get(), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on), 0);
  for (const char byte : "echo\r\n!"s) {
    send_text(client, {&byte, 1});
    world.settle();
  }
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(receive_text(backend.take_one().socket.get(), 1), "!");
}

TYPED_TEST(ShardHandshake, UnknownNames) {
  auto& world = this->make_world();
  for (const std::string& line :
       {"ech\r\n"s, "echoo\r\n"s, "nobody\n"s, std::string(255, 'n') + "\r\n"})
    expect_answer(world, line, "-unknown service\r\n");
  EXPECT_EQ(world.refused(Refusal::kUnknown), 4U);
  ASSERT_TRUE(world.wait_until([&] { return world.heard().refusals.size() == 4; }));
  const RefusalRecord& record = world.heard().refusals[1];
  EXPECT_EQ(record.refusal, Refusal::kUnknown);
  EXPECT_EQ(std::string(record.name.data(), record.name_bytes), "echoo");
  EXPECT_EQ(to_string(record.source.address), "127.0.0.1");
  EXPECT_EQ(world.heard().refusals[3].name_bytes, 64) << "cut";
}

TYPED_TEST(ShardHandshake, InvalidNames) {
  auto& world = this->make_world();
  for (const std::string& line : {"\r\n"s, "\n"s, "\r\r\n"s, "ec ho\r\n"s, " echo\r\n"s,
                                  "ec\0ho\r\n"s, "\xC3\xA9\r\n"s, "ec\rho\n"s, "echo\x7F\n"s})
    expect_answer(world, line, "-invalid service name\r\n");
  EXPECT_EQ(world.refused(Refusal::kInvalid), 9U);
}

TYPED_TEST(ShardHandshake, TooLongNamesAndLines) {
  auto& world = this->make_world();
  for (const std::string& line :
       {std::string(256, 'n') + "\r\n", std::string(257, 'n') + "\n",
        std::string(500, 'n') + "\r\n", std::string(512, 'n'), std::string(100'000, 'n')})
    expect_answer(world, line, "-too long for a service name\r\n");
  EXPECT_EQ(world.refused(Refusal::kTooLong), 5U);
}

TYPED_TEST(ShardHandshake, ANameOfTheGreatestLength) {
  const std::string name(255, 'n');
  auto& world = this->make_world({.line_bytes_max = 257, .services = {{.name = name}}});
  Backend backend = world.add_backend({.services = {name}});
  const OwnFd client = world.ask(name + "\r\n");
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(backend.take_one().service, name);
}

TYPED_TEST(ShardHandshake, ASmallBoundOfTheLine) {
  auto& world = this->make_world({.line_bytes_max = 6});
  Backend backend = world.add_backend();
  const OwnFd client = world.ask("echo\r\n!");
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(receive_text(backend.take_one().socket.get(), 1), "!");
  expect_answer(world, "echoes\n", "-too long for a service name\r\n");
}

// A RST would destroy the reply: so what the client sends on is read for a while.
TYPED_TEST(ShardHandshake, ARefusalArrivesThoughMoreWasSent) {
  auto& world = this->make_world();
  for (int i = 0; i < 8; ++i) {
    const OwnFd client = world.ask("nobody\r\n" + std::string(60'000, 'x'));
    EXPECT_EQ(read_line(client), "-unknown service\r\n");
    send_text(client, "and more");
    EXPECT_EQ(read_all(client), "");
    send_text(client, "and still more");
  }
}

TYPED_TEST(ShardHandshake, Help) {
  auto& world = this->make_world({.services = {{.name = "zebra"},
                                               {.name = "Echo"},
                                               {.name = "secret", .hidden = true},
                                               {.name = "denied", .access = deny_loopback()}}});
  for (const std::string_view line : {"HELP\r\n", "help\n", "hElP\r\n"})
    expect_answer(world, line, "denied\r\nEcho\r\nzebra\r\n");
  EXPECT_EQ(world.count(&ShardCounters::helped), 3U);
}

TYPED_TEST(ShardHandshake, HelpCanBeTurnedOff) {
  auto& world = this->make_world({.help_enabled = false});
  expect_answer(world, "help\r\n", "-unknown service\r\n");
}

TYPED_TEST(ShardHandshake, HelpWithoutServices) {
  auto& world = this->make_world({.services = {}});
  expect_answer(world, "help\r\n", "");
  EXPECT_EQ(world.count(&ShardCounters::helped), 1U);
}

inline std::vector<Service> many_services(std::size_t count, const std::string& prefix) {
  std::vector<Service> services;
  for (std::size_t i = 0; i < count; ++i)
    services.push_back({.name = prefix + std::to_string(10'000 + i) + std::string(200, '.')});
  return services;
}
inline std::string listed(const std::vector<Service>& services) {
  std::string list;
  for (const Service& service : services)
    list += service.name + "\r\n";
  return list;
}

// A list that does not fit into the send queue is sent piece by piece, and goes on from the table
// with which it began, however many tables come meanwhile. A shard has places for eight: the ninth
// waits until a list has ended.
TYPED_TEST(ShardHandshake, LongListsGoOnFromTheirTables) {
  std::vector<std::vector<Service>> tables;
  for (int i = 0; i < 10; ++i)
    tables.push_back(many_services(1000, "of-table-" + std::to_string(i)));
  auto& world = this->make_world({.listener_send_bytes = 4096, .services = tables[0]});
  std::vector<OwnFd> clients;
  for (const auto& table : tables) {
    world.set_table(table);
    clients.push_back(world.connect(0, 4096));
    send_text(clients.back(), "help\r\n");
    ASSERT_TRUE(world.comes(&ShardCounters::helped, clients.size()));
  }
  for (std::size_t i = 0; i < clients.size(); ++i)
    EXPECT_EQ(read_all(clients[i]), listed(tables[std::min<std::size_t>(i, 7)])) << i;
  expect_answer(world, "help\r\n", listed(tables[9]));
}

TYPED_TEST(ShardHandshake, SourcesThatAreDenied) {
  auto& world =
      this->make_world({.services = {{.name = "denied", .access = deny_loopback()},
                                     {.name = "secret", .access = deny_loopback(), .hidden = true},
                                     {.name = "hidden", .hidden = true}}});
  Backend backend = world.add_backend({.services = {"denied", "secret", "hidden"}});
  expect_answer(world, "denied\r\n", "-denied to your address\r\n");
  expect_answer(world, "secret\r\n", "-unknown service\r\n");
  const OwnFd client = world.ask("hidden\r\n");
  EXPECT_EQ(read_line(client), "+\r\n");
  EXPECT_EQ(backend.take_one().service, "hidden");
}

TYPED_TEST(ShardHandshake, AServiceWithoutABackend) {
  auto& world = this->make_world(
      {.services = {{.name = "echo"}, {.name = "was-registered", .configured = false}}});
  expect_answer(world, "echo\r\n", "-unavailable, no backend at the moment\r\n");
  expect_answer(world, "was-registered\r\n", "-unknown service\r\n");
}

TYPED_TEST(ShardHandshake, AFinInTheMiddleOfTheLine) {
  auto& world = this->make_world();
  for (const std::string_view begin : {"", "ec", "echo", "echo\r"}) {
    const OwnFd client = world.ask(begin);
    finish_writing(client);
    EXPECT_EQ(read_all(client), "");
  }
  EXPECT_EQ(world.count(&ShardCounters::peer_gone), 4U);
}

TYPED_TEST(ShardHandshake, AFinBehindTheLineIsTheBackendsToSee) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const OwnFd client = world.ask("echo\r\nall of it");
  finish_writing(client);
  EXPECT_EQ(read_line(client), "+\r\n");
  const Arrival arrival = backend.take_one();
  EXPECT_EQ(read_all(arrival.socket), "all of it");
  send_text(arrival.socket, "and the answer\n");
  EXPECT_EQ(read_line(client), "and the answer\n");
}

TYPED_TEST(ShardHandshake, AResetAtAnyPoint) {
  auto& world = this->make_world();
  std::uint64_t gone = 0;
  for (const std::string_view begin : {"", "ec", "echo\r"}) {
    OwnFd client = world.ask(begin);
    world.settle();
    reset(client);
    EXPECT_TRUE(world.comes(&ShardCounters::peer_gone, ++gone));
  }
  OwnFd refused = world.ask("nobody\r\n");
  EXPECT_EQ(read_line(refused), "-unknown service\r\n");
  reset(refused);
  world.settle();
}

TYPED_TEST(ShardHandshake, ADeadlineForTheWhole) {
  auto& world = this->make_world({.handshake_deadline_ms = kShort_ms});
  const OwnFd silent = world.connect();
  EXPECT_EQ(read_all(silent), "");
  const OwnFd slow = world.connect();
  pollfd waiting{.fd = slow.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
  while (::poll(&waiting, 1, 5) == 0)
    ::send(slow.get(), "n", 1, MSG_NOSIGNAL);
  EXPECT_TRUE(world.comes(&ShardCounters::timed_out, 2));
}

TYPED_TEST(ShardHandshake, NoMoreConnectionsThanSlots) {
  auto& world = this->make_world({.connections_max = 2});
  Backend backend = world.add_backend();
  OwnFd first = world.ask("ec");
  const OwnFd second = world.connect();
  ASSERT_TRUE(world.comes(&ShardCounters::accepted, 2));
  expect_answer(world, "echo\r\n", "-busy, try again\r\n");
  expect_answer(world, "", "-busy, try again\r\n");
  first.reset();
  ASSERT_TRUE(world.comes(&ShardCounters::peer_gone, 1));
  OwnFd third;
  EXPECT_TRUE(world.wait_until([&] {  // those who were refused may still be about to leave
    third = world.ask("echo\r\n");
    return read_line(third) == "+\r\n";
  }));
  EXPECT_EQ(backend.take(1).size(), 1U);
}

// Of a crowd, some are told so, and the others are closed; all are counted, and it goes on.
TYPED_TEST(ShardHandshake, ACrowdBeyondAllSlots) {
  auto& world = this->make_world({.connections_max = 1});
  Backend backend = world.add_backend();
  OwnFd only = world.connect();
  ASSERT_TRUE(world.comes(&ShardCounters::accepted, 1));
  std::vector<OwnFd> crowd;
  for (int i = 0; i < 90; ++i)
    crowd.push_back(world.connect());
  ASSERT_TRUE(world.wait_until([&] { return world.refused(Refusal::kBusy) == 90; }));
  std::size_t told = 0;
  for (const OwnFd& client : crowd)
    told += read_all(client) == "-busy, try again\r\n" ? 1U : 0U;
  EXPECT_GE(told, 64U);
  crowd.clear();
  send_text(only, "echo\r\n");
  EXPECT_EQ(read_line(only), "+\r\n");
  EXPECT_EQ(backend.take(1).size(), 1U);
}

TYPED_TEST(ShardHandshake, ATableThatComesInTheMiddleOfTheLine) {
  auto& world = this->make_world();
  Backend backend = world.add_backend();
  const OwnFd client = world.ask("ti");
  world.settle();
  world.set_table({{.name = "echo"}, {.name = "time", .message = "ready"}});
  Backend clock = world.add_backend({.services = {"time"}});
  world.settle();
  send_text(client, "me\r\n");
  EXPECT_EQ(read_line(client), "+ready\r\n");
  EXPECT_EQ(clock.take_one().service, "time");
  const OwnFd other = world.ask("echo\r\n");
  EXPECT_EQ(read_line(other), "+\r\n");
  EXPECT_EQ(backend.take_one().service, "echo");
}

}  // namespace tcpmux::contract_test
