// What becomes of descriptors, engines and queues: closing, passing on, leaks, full queues, the
// end.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <utility>

#include "handoff/ancillary.h"
#include "tests/contract/support.h"

namespace tcpmux::contract_test {
namespace {

template <class Io>
class IoLifetime : public EngineTest<Io> {};
TYPED_TEST_SUITE(IoLifetime, Engines, EngineNames);

const Tag kAccept = tag_of(Operation::kAccept);
const Tag kPeek = tag_of(Operation::kPeek, 1);
constexpr std::string_view kPlus = "+\r\n";

// The descriptor numbers that the epoll instances of this process watch.
std::multiset<int> watched_descriptors() {
  std::multiset<int> watched;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry, gone) != "anon_inode:[eventpoll]") continue;
    std::ifstream info("/proc/self/fdinfo/" + entry.path().filename().string());
    for (std::string word; info >> word;)
      if (int number = -1; word == "tfd:" && info >> number) watched.insert(number);
  }
  return watched;
}

TYPED_TEST(IoLifetime, ClosedMeansClosed) {
  Driven<TypeParam> io;
  Connection connection = make_connection();
  const int fd = connection.server.release();
  io->close(fd);
  io.settle();
  EXPECT_FALSE(is_open(fd));
  EXPECT_EQ(receive_text(connection.client.get(), 1), "");
  EXPECT_TRUE(io.nothing_else());
}

// epoll watches the open file description, which lives on where the socket was passed to: after our
// close the backend's traffic must not wake us, nor be taken for that of a new connection.
TYPED_TEST(IoLifetime, ASocketThatWasPassedOnIsNoLongerWatched) {
  Driven<TypeParam> io;
  Connection passed = make_connection();
  const int number = passed.server.release();
  std::array<char, 8> buffer{};
  io->peek(kPeek, number, buffer);
  io.settle();
  io->cancel(kPeek, number);
  ASSERT_EQ(io.result_of(kPeek), -ECANCELED);
  const OwnFd elsewhere(::fcntl(number, F_DUPFD_CLOEXEC, 100));
  io->close(number);
  io.settle();
  EXPECT_EQ(watched_descriptors().count(number), 0U);

  Connection next = make_connection();
  if (next.server.get() != number) {
    ASSERT_EQ(::dup3(next.server.get(), number, O_CLOEXEC), number);
    next.server.reset(number);
  }
  io->peek(kPeek, number, buffer);
  send_text(passed.client, "session of the backend");
  EXPECT_TRUE(io.nothing_else());
  send_text(next.client, "x");
  EXPECT_EQ(io.result_of(kPeek), 1);
  EXPECT_EQ(receive_text(elsewhere.get(), 22), "session of the backend");
}

TYPED_TEST(IoLifetime, ADescriptorLetGoServesAnotherEngine) {
  Driven<TypeParam> first;
  Driven<TypeParam> second;
  Connection connection = make_connection();
  const int fd = connection.server.release();
  std::array<char, 8> buffer{};
  first->peek(kPeek, fd, buffer);
  first.settle();
  first->cancel(kPeek, fd);
  ASSERT_EQ(first.result_of(kPeek), -ECANCELED);
  first->let_go(fd);
  EXPECT_TRUE(first.nothing_else());
  EXPECT_EQ(watched_descriptors().count(fd), 0U);

  second->peek(kPeek, fd, buffer);
  second.settle();
  send_text(connection.client, "ab");
  EXPECT_EQ(second.result_of(kPeek), 2);
  EXPECT_TRUE(first.nothing_else());
  second->close(fd);
  second.settle();
  EXPECT_FALSE(is_open(fd));

  Connection next = make_connection();  // the number again, and the first engine once more
  if (next.server.get() != fd) {
    ASSERT_EQ(::dup3(next.server.get(), fd, O_CLOEXEC), fd);
    next.server.reset(fd);
  }
  first->peek(kPeek, fd, buffer);
  first.settle();
  send_text(next.client, "abc");
  EXPECT_EQ(first.result_of(kPeek), 3);
}

TYPED_TEST(IoLifetime, ThousandsOfConnectionsLeaveNothing) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  io->accept(kAccept, listener.get());
  io.settle();
  const std::size_t before = open_descriptors();
  std::array<char, 64> line{};
  for (int round = 0; round < 3000; ++round) {
    OwnFd client = connect_to(listener);
    const int fd = io.result_of(kAccept);
    ASSERT_GE(fd, 0);
    const bool early = round % 2 == 0;
    if (early) send_text(client, "name\r\n");
    io->peek(kPeek, fd, line);
    if (!early && round % 3 == 0) io.settle();  // so that it waits
    if (!early) send_text(client, "name\r\n");
    if (round % 5 == 0) reset(client);
    const int peeked = io.result_of(kPeek);
    ASSERT_TRUE(peeked == 6 || (round % 5 == 0 && peeked == -ECONNRESET)) << peeked;
    io->reply(tag_of(Operation::kReply, 1), fd, peeked == 6 ? 6 : 0, kPlus, false);
    const int replied = io.result_of(tag_of(Operation::kReply, 1));
    ASSERT_TRUE(replied == 3 || (round % 5 == 0 && replied < 0)) << replied;
    io->close(fd);
  }
  EXPECT_TRUE(io.nothing_else());
  // The wakeup of settle() is in both counts.
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(kernel_workers(), 0U);
}

TYPED_TEST(IoLifetime, MoreAtOnceThanTheSubmissionQueueHolds) {
  constexpr std::uint32_t kMany = 600;  // two steps each, beyond the 1024 that are made for it
  if (!raise_descriptor_limit(2 * kMany + 200)) GTEST_SKIP() << "needs 1400 descriptors";
  Driven<TypeParam> io({.operations_max = kMany, .descriptors_max = 65536});
  const OwnFd listener = listen_on_loopback();
  std::vector<Connection> connections(kMany);
  for (Connection& connection : connections) {
    connection.client = connect_to(listener);
    connection.server.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    send_text(connection.client, "name\r\nx");
    ASSERT_TRUE(becomes(connection.server.get(), POLLIN));
  }
  for (std::uint32_t i = 0; i < kMany; ++i)
    io->reply(tag_of(Operation::kReply, i), connections[i].server.get(), 6, kPlus, false);
  for (std::uint32_t i = 0; i < kMany; ++i)
    ASSERT_EQ(io.result_of(tag_of(Operation::kReply, i)), 3);
  EXPECT_TRUE(io.nothing_else());
  for (const Connection& connection : connections) {
    ASSERT_EQ(receive_text(connection.client.get(), 3), kPlus);
    ASSERT_EQ(receive_text(connection.server.get(), 1), "x");
  }
  EXPECT_EQ(kernel_workers(), 0U);
}

TYPED_TEST(IoLifetime, CompletionsComeInSmallPortionsToo) {
  Driven<TypeParam> io;
  std::vector<Connection> connections;
  for (std::uint32_t i = 0; i < 20; ++i) {
    connections.push_back(make_connection());
    send_text(connections.back().client, "x");
    ASSERT_TRUE(becomes(connections.back().server.get(), POLLIN));
    io->drain(tag_of(Operation::kDrain, i), connections.back().server.get());
  }
  std::set<std::uint32_t> seen;
  while (seen.size() < 20) {
    Completion completion;
    ASSERT_EQ(io->wait({&completion, 1}, monotonic_ns() + kPatience_ns), 1U);
    EXPECT_EQ(completion.result, 1);
    EXPECT_TRUE(seen.insert(completion.tag.slot.index).second);
  }
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoLifetime, AnEngineEndsWithEverythingUnderWay) {
  const OwnFd listener = listen_on_loopback();
  const std::size_t before = open_descriptors();
  OwnFd unheard_of;
  OwnFd unreaped_close;
  {
    std::array<char, 64> buffer{};  // gone before the engine, were it not for its end
    Connection waiting = make_connection();
    Connection closed = make_connection();
    unreaped_close = std::move(closed.client);
    Driven<TypeParam> io;
    io->accept(kAccept, listener.get());
    io->peek(kPeek, waiting.server.get(), buffer);
    EXPECT_EQ(io->reap(io.buffer()), 0U);
    unheard_of = connect_to(listener);
    io->close(closed.server.release());
  }
  EXPECT_EQ(receive_text(unreaped_close.get(), 1), "");
  unreaped_close.reset();
  // Accepted or not: nothing is left open but our end.
  EXPECT_EQ(open_descriptors(), before + 1);
}

// Accepted, and lying in the engine's queue when it ends.
TYPED_TEST(IoLifetime, AnEngineClosesWhatNobodyReaped) {
  const OwnFd listener = listen_on_loopback();
  const OwnFd first = connect_to(listener);
  const OwnFd second = connect_to(listener);
  {
    Driven<TypeParam> io;
    io->accept(kAccept, listener.get());
    Completion completion;
    ASSERT_EQ(io->wait({&completion, 1}, monotonic_ns() + kPatience_ns), 1U);
    ::close(completion.result);
  }
  EXPECT_EQ(receive_text(first.get(), 1), "");
  EXPECT_EQ(receive_text(second.get(), 1), "");
}

// So that each of them is served while it is in the cache; and what was not handed out when the
// engine ends is closed.
TYPED_TEST(IoLifetime, ABurstIsHandedOutInParts) {
  constexpr std::size_t kMany = 200;
  OwnFd listener = listen_on_loopback();
  std::vector<OwnFd> clients;
  for (std::size_t i = 0; i < kMany; ++i)
    clients.push_back(connect_to(listener));
  {
    Driven<TypeParam> io;
    io->accept(kAccept, listener.get());
    std::array<Completion, kMany> completions;
    const std::size_t count = io->wait(completions, monotonic_ns() + kPatience_ns);
    EXPECT_GT(count, 0U);
    EXPECT_LE(count, 64U);
    for (std::size_t i = 0; i < count; ++i)
      ::close(completions[i].result);
  }
  listener.reset();  // whoever is left in the backlog
  for (const OwnFd& client : clients)
    EXPECT_EQ(receive_text(client.get(), 1), "");
}

class UringQueues : public EngineTest<UringBackend> {};

// The kernel keeps completions beyond the queue's size until it is entered again.
TEST_F(UringQueues, NothingIsLostWhenTheCompletionQueueIsFull) {
  constexpr std::uint32_t kMany = 10'000;  // the queue holds 4096
  Driven<UringBackend> io({.operations_max = 64, .descriptors_max = 0});
  const OwnFd listener = listen_on_loopback();
  io->accept(kAccept, listener.get());
  Connection ended = make_connection();
  ended.client.reset();
  ASSERT_TRUE(becomes(ended.server.get(), POLLIN));
  std::vector<OwnFd> clients;
  for (std::uint32_t i = 0; i < kMany; ++i) {
    if (i % 1000 == 999) clients.push_back(connect_to(listener));
    io->drain(tag_of(Operation::kDrain, i), ended.server.get());
  }
  std::vector<bool> seen(kMany);
  std::uint32_t drained = 0;
  std::vector<OwnFd> accepted;
  while (drained < kMany || accepted.size() < clients.size()) {
    const std::size_t count = drained < kMany
                                  ? io->reap(io.buffer())  // they are all there
                                  : io->wait(io.buffer(), monotonic_ns() + kPatience_ns);
    ASSERT_GT(count, 0U);
    for (const Completion& completion : io.buffer().first(count)) {
      if (completion.tag.operation == Operation::kAccept) {
        ASSERT_GE(completion.result, 0);
        EXPECT_TRUE(completion.more);
        accepted.emplace_back(completion.result);
        continue;
      }
      ASSERT_EQ(completion.result, 0);
      ASSERT_FALSE(seen[completion.tag.slot.index]);
      seen[completion.tag.slot.index] = true;
      ++drained;
    }
  }
  const OwnFd late = connect_to(listener);
  const OwnFd accepted_late(io.result_of(kAccept));
  EXPECT_TRUE(accepted_late.valid());
  EXPECT_TRUE(io.nothing_else());
}

}  // namespace
}  // namespace tcpmux::contract_test
