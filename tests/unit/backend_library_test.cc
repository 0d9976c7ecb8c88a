// libtcpmux against a fake mux: opening, accepting, what is told of a client, descriptors. What
// happens when the mux ends, or the process forks, is in backend_lifetime_test.cc.
#include <gmock/gmock.h>

#include <chrono>
#include <tcpmux/backend.hpp>

#include "tests/unit/full_table.h"
#include "tests/unit/library_fixture.h"

namespace tcpmux::handoff {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(LibraryTest, RegistersWhatWasAskedFor) {
  options_.window = 77;
  options_.batch = 3;
  options_.lanes = 5;
  options_.without_addresses = 1;
  const char* names[] = {"echo", "Whoami"};
  tcpmux_backend* raw = nullptr;
  std::thread mux([&] {
    registration_ = mux_.next();
    registration_.welcome(5, 3);
  });
  ASSERT_EQ(tcpmux_open(&raw, names, 2, &options_), TCPMUX_OK);
  const Handle handle(raw);
  mux.join();
  EXPECT_THAT(registration_.asked.names, ElementsAre("echo", "Whoami"));
  EXPECT_EQ(registration_.asked.window, 77U);
  EXPECT_EQ(registration_.asked.batch, 3);
  EXPECT_EQ(registration_.asked.lanes, 5);
  EXPECT_TRUE(registration_.asked.without_addresses);
  EXPECT_EQ(registration_.asked.lane_kind, LaneKind::kMessages);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_SERVING);
  EXPECT_EQ(tcpmux_registry(handle.get()), mux_.path());
}

TEST_F(LibraryTest, TheDefaultsAreABatchOfEightAndALaneForEachThread) {
  const Handle handle = open_welcomed();
  EXPECT_EQ(registration_.asked.batch, 8);
  EXPECT_EQ(registration_.asked.lanes, 0);
  EXPECT_FALSE(registration_.asked.without_addresses);
  EXPECT_EQ(registration_.asked.window, 0U);
}

TEST_F(LibraryTest, TheRegistryIsTakenFromTheEnvironment) {
  ::setenv("TCPMUX_REGISTRY", mux_.path().c_str(), 1);
  options_.registry = nullptr;
  const Handle handle = open_welcomed();
  ::unsetenv("TCPMUX_REGISTRY");
  EXPECT_EQ(tcpmux_registry(handle.get()), mux_.path());
}

TEST_F(LibraryTest, GivesASocketAndItsFacts) {
  const Handle handle = open_welcomed();
  const std::vector<OwnFd> clients = registration_.hand_over(0, 1, 42);
  const Accepted accepted = accept_one(handle, kPatience_ms);
  ASSERT_EQ(accepted.result, TCPMUX_OK);
  EXPECT_EQ(accepted.service, "echo");
  EXPECT_EQ(accepted.client, "192.0.2.7:50000");
  EXPECT_EQ(accepted.destination, "198.51.100.1:1");
  EXPECT_EQ(accepted.id, 42);
  EXPECT_EQ(accepted.accepted_ns, 1'649'264'007'492'403'200);
  EXPECT_EQ(::fcntl(accepted.socket.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(::fcntl(accepted.socket.get(), F_GETFL) & O_NONBLOCK, 0);
  ASSERT_EQ(::send(accepted.socket.get(), "hi", 2, 0), 2);
  char bytes[2];
  ASSERT_EQ(::recv(clients[0].get(), bytes, sizeof bytes, 0), 2);
  EXPECT_EQ(std::string(bytes, 2), "hi");
}

TEST_F(LibraryTest, GivesNonblockingSocketsWhereAskedFor) {
  options_.nonblocking = 1;
  const Handle handle = open_welcomed();
  const std::vector<OwnFd> clients = registration_.hand_over(0, 3);
  for (int i = 0; i < 3; ++i) {
    const Accepted accepted = accept_one(handle, kPatience_ms);
    ASSERT_EQ(accepted.result, TCPMUX_OK);
    EXPECT_NE(::fcntl(accepted.socket.get(), F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST_F(LibraryTest, GivesTheSocketsOfABatchInTheirOrder) {
  const Handle handle = open_welcomed();
  const std::vector<OwnFd> clients = registration_.hand_over(0, 8, 10);
  for (int i = 0; i < 8; ++i) {
    const Accepted accepted = accept_one(handle);
    ASSERT_EQ(accepted.result, TCPMUX_OK);
    EXPECT_EQ(accepted.id, 10 + i);
    EXPECT_EQ(tcpmux_get_counters(handle.get())->sockets, 8U) << "they came together";
    const char mark = static_cast<char>('a' + i);
    ASSERT_EQ(::send(accepted.socket.get(), &mark, 1, 0), 1);
    char got = 0;
    ASSERT_EQ(::recv(clients[static_cast<std::size_t>(i)].get(), &got, 1, 0), 1);
    EXPECT_EQ(got, mark);
  }
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  EXPECT_EQ(tcpmux_get_counters(handle.get())->messages, 1U);
  EXPECT_EQ(tcpmux_get_counters(handle.get())->sockets, 8U);
}

TEST_F(LibraryTest, WaitsNoLongerThanAsked) {
  const Handle handle = open_welcomed();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(accept_one(handle, 30).result, TCPMUX_EMPTY);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(30));
}

TEST_F(LibraryTest, TheDescriptorIsReadableWhenSomebodyWaits) {
  const Handle handle = open_welcomed(2);
  EXPECT_FALSE(readable(tcpmux_descriptor(handle.get()), 0));
  const std::vector<OwnFd> clients = registration_.hand_over(1, 1);
  EXPECT_TRUE(readable(tcpmux_descriptor(handle.get())));
  EXPECT_EQ(accept_one(handle).result, TCPMUX_OK);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  EXPECT_FALSE(readable(tcpmux_descriptor(handle.get()), 0));
}

TEST_F(LibraryTest, NoLaneWaitsForAnother) {
  const Handle handle = open_welcomed(2);
  std::vector<std::vector<OwnFd>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(registration_.hand_over(0, 1, 1));
    clients.push_back(registration_.hand_over(1, 1, 2));
  }
  int of_first_lane = 0;
  for (int i = 0; i < 20; ++i)
    of_first_lane += accept_one(handle).id == 1 ? 1 : 0;
  EXPECT_EQ(of_first_lane, 10);
}

TEST_F(LibraryTest, AMessageThatWasTakenBeforeWeCameIsNoTrouble) {
  const Handle handle = open_welcomed(2);
  const std::vector<OwnFd> first = registration_.hand_over(0, 1, 1);
  const std::vector<OwnFd> second = registration_.hand_over(1, 1, 1);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_OK);  // has seen that both lanes are readable
  for (const SocketPair& lane : registration_.lanes) {
    std::byte bytes[1024];
    OwnFd place;
    receive(lane.theirs.get(), bytes, std::span(&place, 1), MSG_DONTWAIT);  // as in a take back
  }
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  const std::vector<OwnFd> more[] = {registration_.hand_over(0, 1, 7),
                                     registration_.hand_over(1, 1, 7)};
  EXPECT_EQ(accept_one(handle).id, 7);
  EXPECT_EQ(accept_one(handle).id, 7);
}

TEST_F(LibraryTest, ARefusalIsToldWithCodeAndReason) {
  Handle handle;
  const auto script = [](FakeRegistration& asked) {
    asked.refuse(RefuseCode::kNotAllowed, "uid 1000 may not register \"echo\"");
  };
  options_.wait_for_mux = 1;  // waiting would not help
  EXPECT_EQ(open_while(handle, script), TCPMUX_REFUSED);
  EXPECT_EQ(handle, nullptr);
  EXPECT_EQ(tcpmux_refusal(nullptr), TCPMUX_REFUSAL_NOT_ALLOWED);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("uid 1000 may not register \"echo\""));
}

TEST_F(LibraryTest, ARefusalThatPassesIsAFailureOnlyWhereNobodyWaits) {
  Handle handle;
  const auto script = [](FakeRegistration& asked) {
    asked.refuse(RefuseCode::kNoRoom, "too many backends");
  };
  EXPECT_EQ(open_while(handle, script), TCPMUX_REFUSED);
  EXPECT_EQ(tcpmux_refusal(nullptr), TCPMUX_REFUSAL_NO_ROOM);
  options_.wait_for_mux = 1;
  ASSERT_EQ(open_while(handle, script), TCPMUX_OK);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_WAITING);
  EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("too many backends"));
  welcome_again(handle);
}

TEST_F(LibraryTest, AnAbsentMuxIsSaidAtOnce) {
  mux_.stop_listening();
  Handle handle;
  EXPECT_EQ(open(handle), TCPMUX_ABSENT);
  EXPECT_EQ(handle, nullptr);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr(mux_.path()));
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("No such file"));
  EXPECT_EQ(tcpmux_refusal(nullptr), 0);
}

TEST_F(LibraryTest, AnAbsentMuxIsWaitedForWhereAskedFor) {
  mux_.stop_listening();
  options_.wait_for_mux = 1;
  Handle handle;
  ASSERT_EQ(open(handle), TCPMUX_OK);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_WAITING);
  EXPECT_EQ(accept_one(handle, 50).result, TCPMUX_EMPTY);
  mux_.listen();
  welcome_again(handle);
  const std::vector<OwnFd> clients = registration_.hand_over(0, 1);
  EXPECT_EQ(accept_one(handle, kPatience_ms).result, TCPMUX_OK);
}

TEST_F(LibraryTest, AMuxThatDoesNotAnswerIsNotWaitedForForEver) {
  options_.open_timeout_ms = 30;
  Handle handle;
  EXPECT_EQ(open(handle), TCPMUX_ABSENT);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("does not answer"));
}

TEST_F(LibraryTest, AWelcomeWithoutItsLanesIsNone) {
  Handle handle;
  const auto script = [](FakeRegistration& asked) {
    const SocketPair pair = make_pair();
    const int one[] = {pair.theirs.get()};
    asked.say(encode(Welcome{.lanes = 2, .window = 1, .batch = 1}), one);
  };
  EXPECT_EQ(open_while(handle, script), TCPMUX_ABSENT);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("2 lanes came with 1"));
}

TEST_F(LibraryTest, ArgumentsThatCannotBeRightAreRefusedHere) {
  tcpmux_backend* raw = nullptr;
  const char* none[] = {""};
  const char* name[] = {"echo"};
  EXPECT_EQ(tcpmux_open(&raw, name, 0, &options_), TCPMUX_ERROR);
  EXPECT_EQ(tcpmux_open(&raw, none, 1, &options_), TCPMUX_ERROR);
  options_.batch = 65;
  EXPECT_EQ(tcpmux_open(&raw, name, 1, &options_), TCPMUX_ERROR);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("65"));
  options_.batch = 0;
  const std::string long_path(200, 'x');
  options_.registry = long_path.c_str();
  EXPECT_EQ(tcpmux_open(&raw, name, 1, &options_), TCPMUX_ERROR);
  EXPECT_EQ(raw, nullptr);
}

TEST_F(LibraryTest, OptionsMayComeFromAnOlderOrANewerHeader) {
  struct Newer {
    tcpmux_options known;
    long unknown;
  } newer{.known = options_, .unknown = 1};
  newer.known.size = sizeof newer;
  tcpmux_backend* raw = nullptr;
  const char* names[] = {"echo"};
  EXPECT_EQ(tcpmux_open(&raw, names, 1, &newer.known), TCPMUX_ERROR);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("does not know"));
  options_.batch = 5;
  options_.size = offsetof(tcpmux_options, batch);  // one in which it did not exist yet
  const Handle handle = open_welcomed();
  EXPECT_EQ(registration_.asked.batch, 8);
}

TEST_F(LibraryTest, WhatItDoesNotKnowIsIgnoredAndItsDescriptorsClosed) {
  const Handle handle = open_welcomed();
  SocketPair pair = make_pair(SOCK_STREAM);
  std::vector<std::byte> strange = encode_plain(static_cast<MessageType>(99), "hello");
  const int given[] = {pair.theirs.get()};
  ASSERT_EQ(send_now(registration_.lanes[0].ours.get(), strange, given), 0);
  registration_.say(strange, given);
  ASSERT_EQ(send_now(registration_.lanes[0].ours.get(), encode_plain(MessageType::kProbe), {}), 0);
  pair.theirs.reset();
  while (readable(tcpmux_descriptor(handle.get()), 0))
    EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  char byte = 0;
  ASSERT_TRUE(readable(pair.ours.get()));
  EXPECT_EQ(::recv(pair.ours.get(), &byte, 1, 0), 0);  // nobody has the other end
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_SERVING);
}

TEST_F(LibraryTest, LeavesNoDescriptorOpen) {
  const int before = open_descriptors();
  for (int i = 0; i < 3; ++i) {
    const Handle handle = open_welcomed(3);
    const std::vector<OwnFd> clients = registration_.hand_over(0, 5);
    EXPECT_EQ(accept_one(handle).result, TCPMUX_OK);  // four are still in the queue
  }
  registration_ = {};
  EXPECT_EQ(open_descriptors(), before);
}

// ---- the descriptor table

TEST_F(LibraryTest, ABatchFitsIntoAFullTableAndTheNextStaysWithTheMux) {
  FullTable table(128);
  const Handle handle = open_welcomed(1, 4);
  std::vector<std::vector<OwnFd>> clients;
  clients.push_back(registration_.hand_over(0, 4, 0));
  clients.push_back(registration_.hand_over(0, 4, 4));
  table.take_all();
  std::vector<Accepted> accepted;
  for (int i = 0; i < 4; ++i)
    accepted.push_back(accept_one(handle));
  for (const Accepted& each : accepted)
    EXPECT_EQ(each.result, TCPMUX_OK);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_NO_DESCRIPTORS);
  EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("RLIMIT_NOFILE"));
  EXPECT_EQ(accept_one(handle, -1).result, TCPMUX_NO_DESCRIPTORS);  // says it each time
  accepted.clear();
  for (int i = 4; i < 8; ++i) {
    const Accepted each = accept_one(handle);
    EXPECT_EQ(each.result, TCPMUX_OK);
    EXPECT_EQ(each.id, i);
  }
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  table.take_all();  // all but what the library has put aside again
  table.give_back(8);
  clients.push_back(registration_.hand_over(0, 4, 8));
  table.take_all();
  for (int i = 8; i < 12; ++i)
    EXPECT_EQ(accept_one(handle).id, i);
  EXPECT_EQ(tcpmux_get_counters(handle.get())->clients_lost, 0U);
}

TEST_F(LibraryTest, LostClientsAreCountedAndTold) {
  FullTable table(128);
  const Handle handle = open_welcomed(1, 2);
  const std::vector<OwnFd> clients = registration_.hand_over(0, 5);  // more than was agreed on
  table.take_all();
  EXPECT_EQ(accept_one(handle).id, 0);
  EXPECT_EQ(accept_one(handle).id, 1);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_LOST);
  EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("3 clients were lost"));
  EXPECT_EQ(tcpmux_get_counters(handle.get())->clients_lost, 3U);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
}

TEST_F(LibraryTest, LanesThatDoNotFitAreSaidToNotFit) {
  FullTable table(128);
  options_.batch = 1;
  Handle handle;
  std::thread mux([&] {
    registration_ = mux_.next();
    for (int i = 0; i < 4; ++i)
      registration_.lanes.push_back(make_pair());
    std::vector<int> ends;
    for (const SocketPair& lane : registration_.lanes)
      ends.push_back(lane.theirs.get());
    table.take_all();
    table.give_back(1);
    registration_.say(encode(Welcome{.lanes = 4, .window = 16, .batch = 1}), ends);
  });
  EXPECT_EQ(open(handle), TCPMUX_NO_DESCRIPTORS);
  EXPECT_THAT(tcpmux_error(nullptr), HasSubstr("RLIMIT_NOFILE"));
  mux.join();
}

// ---- the C++ face

TEST_F(LibraryTest, TheFaceGivesClientsThatCloseThemselves) {
  std::thread mux([&] {
    registration_ = mux_.next();
    registration_.welcome();
  });
  BackendOptions options;
  options.registry = mux_.path();
  Backend first({"echo"}, options);
  mux.join();
  Backend backend = std::move(first);
  std::vector<OwnFd> clients = registration_.hand_over(0, 2, 0xAB);
  char byte = 0;
  {
    std::optional<Client> client = backend.accept();
    ASSERT_TRUE(client.has_value());
    EXPECT_EQ(client->service(), "echo");
    EXPECT_EQ(client->source_text(), "192.0.2.7:50000");
    EXPECT_EQ(client->destination_text(), "198.51.100.1:1");
    EXPECT_EQ(client->id_text(), "000000000000000000000000000000ab");
    EXPECT_EQ(client->accepted().count(), 1'649'264'007'492'403'200);
    const Client moved = std::move(*client);
    EXPECT_GE(moved.socket(), 0);
    EXPECT_EQ(::recv(clients[0].get(), &byte, 1, MSG_DONTWAIT), -1);  // still open
  }
  EXPECT_EQ(::recv(clients[0].get(), &byte, 1, MSG_DONTWAIT), 0);
  Client second;
  ASSERT_EQ(backend.try_accept(second), TCPMUX_OK);
  const OwnFd released(second.release());
  second.close();
  EXPECT_EQ(::recv(clients[1].get(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(backend.accept(std::chrono::milliseconds(1)), std::nullopt);
  EXPECT_EQ(backend.counters().sockets, 2U);
}

TEST_F(LibraryTest, TheFaceThrowsWhatCannotGoOn) {
  std::thread mux([&] { mux_.next().refuse(RefuseCode::kBadName, "a name has no spaces"); });
  BackendOptions options;
  options.registry = mux_.path();
  try {
    const Backend backend({"two words"}, options);
    ADD_FAILURE() << "it was refused";
  } catch (const BackendError& error) {
    EXPECT_EQ(error.result(), TCPMUX_REFUSED);
    EXPECT_EQ(error.refusal(), TCPMUX_REFUSAL_BAD_NAME);
    EXPECT_THAT(error.what(), HasSubstr("a name has no spaces"));
  }
  mux.join();
}

}  // namespace
}  // namespace tcpmux::handoff
