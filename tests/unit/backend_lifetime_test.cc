// libtcpmux when things end or split: the mux goes and comes back, the backend drains and leaves,
// the process forks.
#include <gmock/gmock.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <functional>
#include <set>

#include "handoff/lib/retry_pause.h"
#include "tests/unit/library_fixture.h"

namespace tcpmux::handoff {
namespace {

using ::testing::HasSubstr;

bool has_ended(const OwnFd& fd) {
  char byte = 0;
  return readable(fd.get()) && ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

class LifetimeTest : public LibraryTest {
 protected:
  // As the kernel does for a mux that is killed, in this order or the other.
  void mux_ends(bool registry_first) {
    if (registry_first) registration_.connection.reset();
    registration_.lanes.clear();
    registration_.connection.reset();
  }

  // Six clients in two lanes wait; the mux ends; all six are served; a new mux is found.
  void serves_all_and_registers_again(const std::function<void()>& end) {
    const Handle handle = open_welcomed(2);
    std::vector<std::vector<OwnFd>> clients;
    for (int i = 0; i < 3; ++i) {
      clients.push_back(registration_.hand_over(0, 1, 2 * i));
      clients.push_back(registration_.hand_over(1, 1, 2 * i + 1));
    }
    std::set<int> seen;
    seen.insert(accept_one(handle).id);
    end();
    for (int i = 1; i < 6; ++i) {
      const Accepted accepted = accept_one(handle, kPatience_ms);
      ASSERT_EQ(accepted.result, TCPMUX_OK) << tcpmux_error(handle.get());
      seen.insert(accepted.id);
    }
    EXPECT_EQ(seen, (std::set<int>{0, 1, 2, 3, 4, 5}));
    welcome_again(handle);
    const std::vector<OwnFd> more = registration_.hand_over(0, 1, 77);
    EXPECT_EQ(accept_one(handle, kPatience_ms).id, 77);
    EXPECT_EQ(tcpmux_get_counters(handle.get())->registrations, 2U);
    EXPECT_STREQ(tcpmux_error(handle.get()), "");
  }
};

TEST_F(LifetimeTest, AMuxIsKilled) {
  serves_all_and_registers_again([this] { mux_ends(true); });
}

TEST_F(LifetimeTest, AMuxIsKilledLanesFirst) {
  serves_all_and_registers_again([this] { mux_ends(false); });
}

TEST_F(LifetimeTest, AMuxSaysGoodbye) {
  serves_all_and_registers_again([this] {
    registration_.say(encode_plain(MessageType::kGoodbye, "restart"));
    mux_ends(true);
  });
}

TEST_F(LifetimeTest, TheRegistrationAloneEnds) {
  FakeRegistration before;
  serves_all_and_registers_again([&] {
    registration_.connection.reset();
    before = std::move(registration_);
  });
  for (SocketPair& lane : before.lanes) {
    lane.theirs.reset();
    EXPECT_TRUE(has_ended(lane.ours)) << "the backend must have closed its end of the lane";
  }
}

TEST_F(LifetimeTest, AMalformedMessageEndsTheRegistration) {
  // Each is sent with one descriptor; what is behind the others is served all the same.
  const std::vector<std::byte> welcome = encode(Welcome{.lanes = 1, .window = 1, .batch = 1});
  std::vector<std::byte> handoff(welcome.begin(), welcome.begin() + kHeaderBytes);
  handoff[5] = std::byte{static_cast<std::uint8_t>(MessageType::kHandoff)};
  std::vector<std::byte> two_sockets = handoff;
  two_sockets[7] = std::byte{2};
  const std::vector<std::byte> no_magic(20);
  for (const std::vector<std::byte>& bytes : {handoff, two_sockets, no_magic}) {
    const Handle handle = open_welcomed();
    const SocketPair pair = make_pair(SOCK_STREAM);
    const int given[] = {pair.theirs.get()};
    ASSERT_EQ(send_now(registration_.lanes[0].ours.get(), bytes, given), 0);
    const std::vector<OwnFd> clients = registration_.hand_over(0, 1, 8);
    EXPECT_EQ(accept_one(handle, kPatience_ms).id, 8);
    EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("cannot be understood"));
    EXPECT_EQ(registration_.next_type(), 0) << "the connection has ended";
    welcome_again(handle);
  }
}

TEST_F(LifetimeTest, AfterGoodbyeTheLanesAreStillServed) {
  const Handle handle = open_welcomed();
  registration_.say(encode_plain(MessageType::kGoodbye, "an upgrade"));
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_DRAINING);
  EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("an upgrade"));
  const std::vector<OwnFd> clients = registration_.hand_over(0, 1, 5);
  EXPECT_EQ(accept_one(handle, kPatience_ms).id, 5);
}

// The mux's copy of our end of a lane keeps the open file alive, and with it what an epoll set
// would report of it for ever.
TEST_F(LifetimeTest, WhatHasEndedIsQuiet) {
  options_.retry_first_ms = options_.retry_last_ms = 3'600'000;
  const Handle handle = open_welcomed();
  registration_.connection.reset();
  registration_.lanes[0].ours.reset();  // and keeps the copy
  EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_WAITING);
  EXPECT_FALSE(readable(tcpmux_descriptor(handle.get()), 0));
}

TEST_F(LifetimeTest, ARefusalLaterIsReportedAndStays) {
  const Handle handle = open_welcomed();
  mux_ends(true);
  std::thread mux([this] { mux_.next().refuse(RefuseCode::kUnknownService, "no such service"); });
  EXPECT_EQ(accept_one(handle, kPatience_ms).result, TCPMUX_REFUSED);
  mux.join();
  EXPECT_EQ(tcpmux_refusal(handle.get()), TCPMUX_REFUSAL_UNKNOWN_SERVICE);
  EXPECT_THAT(tcpmux_error(handle.get()), HasSubstr("no such service"));
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_STOPPED);
  EXPECT_TRUE(readable(tcpmux_descriptor(handle.get()), kPatience_ms));
  EXPECT_EQ(accept_one(handle, -1).result, TCPMUX_REFUSED);
}

TEST_F(LifetimeTest, ARefusalThatPassesIsTriedAgain) {
  const Handle handle = open_welcomed();
  mux_ends(true);
  std::thread mux([this] {
    mux_.next().refuse(RefuseCode::kShuttingDown, "shutting down");
    mux_.next().refuse(RefuseCode::kNoRoom, "no room");
    registration_ = mux_.next();
    registration_.welcome();
  });
  while (tcpmux_get_counters(handle.get())->registrations < 2 &&
         readable(tcpmux_descriptor(handle.get())))
    EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
  mux.join();
  EXPECT_EQ(tcpmux_refusal(handle.get()), 0);
}

TEST_F(LifetimeTest, DrainGoesOnServingUntilTheLanesEnd) {
  options_.retry_first_ms = options_.retry_last_ms = 3'600'000;
  const Handle handle = open_welcomed();
  const std::vector<OwnFd> clients = registration_.hand_over(0, 2);
  tcpmux_drain(handle.get());
  EXPECT_EQ(registration_.next_type(), static_cast<int>(MessageType::kDrain));
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_DRAINING);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_OK);
  mux_ends(true);
  EXPECT_EQ(accept_one(handle).result, TCPMUX_OK);
  EXPECT_EQ(accept_one(handle, -1).result, TCPMUX_ENDED);
  EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_STOPPED);
  EXPECT_TRUE(readable(tcpmux_descriptor(handle.get()), kPatience_ms));
}

TEST_F(LifetimeTest, DrainWithoutAMuxEndsAtOnce) {
  mux_.stop_listening();
  options_.wait_for_mux = 1;
  Handle handle;
  ASSERT_EQ(open(handle), TCPMUX_OK);
  tcpmux_drain(handle.get());
  EXPECT_EQ(accept_one(handle, -1).result, TCPMUX_ENDED);
}

TEST_F(LifetimeTest, CloseSaysGoodbye) {
  Handle handle = open_welcomed();
  handle.reset();
  EXPECT_EQ(registration_.next_type(), static_cast<int>(MessageType::kGoodbye));
  EXPECT_EQ(registration_.next_type(), 0);
}

TEST_F(LifetimeTest, AMuxThatIsGoneRaisesNoSignal) {
  Handle handle = open_welcomed();
  mux_ends(true);
  tcpmux_drain(handle.get());
  handle.reset();  // SIGPIPE would have ended the test
}

TEST(RetryPauseTest, DoublesUpToItsBoundAndStartsOver) {
  RetryPause pause(50, 5000, 1);
  for (const std::int64_t expected_ms : {50, 100, 200, 400, 800, 1600, 3200, 5000, 5000}) {
    const std::int64_t pause_ns = pause.next_ns();
    EXPECT_LE(pause_ns, expected_ms * 1'000'000);
    EXPECT_GE(pause_ns, expected_ms * 500'000);
  }
  pause.start_over();
  EXPECT_LE(pause.next_ns(), 50'000'000);
  EXPECT_NE(RetryPause(50, 5000, 1).next_ns(), RetryPause(50, 5000, 2).next_ns());
}

// ---- fork

// Runs `body` in a child; its true is the child's success.
pid_t in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  return child;
}

void expect_success(pid_t child) {
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(LifetimeTest, EachClientGoesToOneOfTheForkedWorkers) {
  const Handle handle = open_welcomed();
  constexpr int kClients = 40;
  // Every worker writes its letter to each of its clients, until it is given the one with id 99.
  const auto work = [&](char letter) {
    for (;;) {
      const Accepted accepted = accept_one(handle, kPatience_ms);
      if (accepted.result != TCPMUX_OK) return false;
      if (::send(accepted.socket.get(), &letter, 1, MSG_NOSIGNAL) != 1) return false;
      if (accepted.id == 99) return true;
    }
  };
  const pid_t one = in_child([&] { return work('1'); });
  const pid_t two = in_child([&] { return work('2'); });
  std::vector<OwnFd> clients;
  for (int i = 0; i < kClients; ++i)
    clients.push_back(std::move(registration_.hand_over(0, 1, i).front()));
  for (const OwnFd& client : clients) {
    char letter = 0;
    ASSERT_TRUE(readable(client.get()));
    ASSERT_EQ(::recv(client.get(), &letter, 1, 0), 1);
    EXPECT_TRUE(letter == '1' || letter == '2');
    EXPECT_TRUE(has_ended(client)) << "two processes had it";
  }
  const std::vector<OwnFd> last_one = registration_.hand_over(0, 1, 99);
  const std::vector<OwnFd> last_two = registration_.hand_over(0, 1, 99);
  expect_success(one);
  expect_success(two);
}

TEST_F(LifetimeTest, AChildDoesNotServeWhomItsParentHasReceived) {
  const Handle handle = open_welcomed();
  const std::vector<OwnFd> clients = registration_.hand_over(0, 3);
  EXPECT_EQ(accept_one(handle).id, 0);
  expect_success(in_child([&] { return accept_one(handle).result == TCPMUX_EMPTY; }));
  EXPECT_EQ(accept_one(handle).id, 1);
  EXPECT_EQ(accept_one(handle).id, 2);
  EXPECT_TRUE(has_ended(clients[2])) << "a copy is open somewhere";
}

TEST_F(LifetimeTest, AChildsDescriptorIsItsOwn) {
  const Handle handle = open_welcomed();
  const int number = tcpmux_descriptor(handle.get());
  SocketPair go = make_pair();
  const pid_t child = in_child([&] {
    if (tcpmux_descriptor(handle.get()) != number || readable(number, 0)) return false;
    if (::fcntl(number, F_GETFD) != FD_CLOEXEC) return false;
    if (::send(go.theirs.get(), "x", 1, 0) != 1) return false;
    return readable(number) && accept_one(handle).id == 9;
  });
  ASSERT_TRUE(readable(go.ours.get()));  // the child has made its set
  const std::vector<OwnFd> clients = registration_.hand_over(0, 1, 9);
  expect_success(child);
  const std::vector<OwnFd> more = registration_.hand_over(0, 1, 10);
  EXPECT_TRUE(readable(number));
  EXPECT_EQ(accept_one(handle).id, 10);
}

TEST_F(LifetimeTest, AChildThatClosesSaysNothing) {
  Handle handle = open_welcomed();
  expect_success(in_child([&] {
    tcpmux_drain(handle.get());
    tcpmux_close(handle.release());
    return true;
  }));
  EXPECT_FALSE(readable(registration_.connection.get(), 0));
  const std::vector<OwnFd> clients = registration_.hand_over(0, 1, 3);
  EXPECT_EQ(accept_one(handle, kPatience_ms).id, 3);
}

TEST_F(LifetimeTest, AfterTheMuxEachWorkerRegistersByItself) {
  Handle handle = open_welcomed();
  const auto serve_one_and_leave = [&] {
    const bool served = accept_one(handle, kPatience_ms).id == 21;
    handle.reset();
    return served;
  };
  const pid_t child = in_child([&] {
    registration_ = {};  // or the mux's ends would live on in here
    return serve_one_and_leave();
  });
  mux_ends(true);
  std::thread parent([&] { EXPECT_TRUE(serve_one_and_leave()); });
  FakeRegistration both[] = {mux_.next(), mux_.next()};
  std::vector<OwnFd> clients;
  for (FakeRegistration& each : both) {
    each.welcome();
    clients.push_back(std::move(each.hand_over(0, 1, 21).front()));
  }
  for (const FakeRegistration& each : both)
    EXPECT_EQ(each.next_type(), static_cast<int>(MessageType::kGoodbye));
  parent.join();
  expect_success(child);
}

}  // namespace
}  // namespace tcpmux::handoff
