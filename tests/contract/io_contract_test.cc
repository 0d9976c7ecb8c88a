// Operations on connections, one by one.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "tests/contract/support.h"

namespace tcpmux::contract_test {
namespace {

template <class Io>
class IoContract : public EngineTest<Io> {};
TYPED_TEST_SUITE(IoContract, Engines, EngineNames);

const Tag kPeek = tag_of(Operation::kPeek, 7, 1);
const Tag kDiscard = tag_of(Operation::kDiscard, 7, 1);
const Tag kReply = tag_of(Operation::kReply, 7, 1);
const Tag kDrain = tag_of(Operation::kDrain, 7, 1);
constexpr std::string_view kPlus = "+\r\n";

TYPED_TEST(IoContract, TheWholeWayOfAConnection) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  const Tag accepts = tag_of(Operation::kAccept, 3);
  io->accept(accepts, listener.get());
  const OwnFd client = connect_to(listener);
  const int fd = io.result_of(accepts);
  ASSERT_GE(fd, 0);
  std::array<char, 64> line{};
  io->peek(kPeek, fd, line);
  send_text(client, "finger\r\nearly");
  EXPECT_EQ(io.result_of(kPeek), 13);
  EXPECT_EQ(std::string_view(line.data(), 13), "finger\r\nearly");
  io->reply(kReply, fd, 8, kPlus, false);
  EXPECT_EQ(io.result_of(kReply), 3);
  EXPECT_EQ(receive_text(client.get(), 3), kPlus);
  EXPECT_EQ(receive_text(fd, 5), "early");
  io->close(fd);
  io.settle();
  EXPECT_EQ(receive_text(client.get(), 1), "");
  io->cancel(accepts, listener.get());
  EXPECT_EQ(io.result_of(accepts), -ECANCELED);
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoContract, PeekTakesNothing) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  send_text(connection.client, "ab");
  std::array<char, 8> buffer{};
  for (int round = 0; round < 3; ++round) {
    buffer = {};
    io->peek(kPeek, connection.server.get(), buffer);
    EXPECT_EQ(io.result_of(kPeek), 2);
    EXPECT_EQ(std::string_view(buffer.data(), 2), "ab");
  }
  EXPECT_EQ(receive_text(connection.server.get(), 2), "ab");
}

TYPED_TEST(IoContract, DiscardTakesExactlyWhatItIsTold) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const int fd = connection.server.get();
  send_text(connection.client, "abcdef");
  std::array<char, 8> buffer{};
  io->peek(kPeek, fd, buffer);
  ASSERT_EQ(io.result_of(kPeek), 6);
  io->discard(kDiscard, fd, 4);
  EXPECT_EQ(io.result_of(kDiscard), 4);
  io->peek(kPeek, fd, buffer);
  EXPECT_EQ(io.result_of(kPeek), 2);
  EXPECT_EQ(std::string_view(buffer.data(), 2), "ef");
  io->discard(kDiscard, fd, 2);
  EXPECT_EQ(io.result_of(kDiscard), 2);
  io->peek(kPeek, fd, buffer);  // nothing is there: waits for what comes next
  EXPECT_TRUE(io.nothing_else());
  send_text(connection.client, "g");
  EXPECT_EQ(io.result_of(kPeek), 1);
  EXPECT_EQ(buffer[0], 'g');
}

TYPED_TEST(IoContract, PeekSeesTheEndAndTheReset) {
  Driven<TypeParam> io;
  std::array<char, 8> buffer{};
  Connection ended = make_connection();
  io->peek(kPeek, ended.server.get(), buffer);
  io.settle();
  ended.client.reset();
  EXPECT_EQ(io.result_of(kPeek), 0);

  for (const bool already_waiting : {true, false}) {
    Connection broken = make_connection();
    if (already_waiting) {
      io->peek(kPeek, broken.server.get(), buffer);
      io.settle();
    }
    reset(broken.client);
    ASSERT_TRUE(becomes(broken.server.get(), POLLIN));
    if (!already_waiting) io->peek(kPeek, broken.server.get(), buffer);
    EXPECT_EQ(io.result_of(kPeek), -ECONNRESET);
  }
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoContract, ReplyLeavesWhatStandsBehindTheLine) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  send_text(connection.client, "name\r\nGET / HTTP/1.1\r\n");
  ASSERT_TRUE(becomes(connection.server.get(), POLLIN));
  io->reply(kReply, connection.server.get(), 6, kPlus, false);
  EXPECT_EQ(io.result_of(kReply), 3);
  EXPECT_EQ(receive_text(connection.client.get(), 3), kPlus);
  EXPECT_EQ(receive_text(connection.server.get(), 16), "GET / HTTP/1.1\r\n");
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoContract, ReplyWithNothingToDiscard) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  io->reply(kReply, connection.server.get(), 0, kPlus, false);
  EXPECT_EQ(io.result_of(kReply), 3);
  EXPECT_EQ(receive_text(connection.client.get(), 3), kPlus);
  EXPECT_TRUE(io.nothing_else());
}

// Bytes that the kernel has not put into a segment yet.
int held_back_bytes(int fd) {
  int bytes = -1;
  TCPMUX_CHECK(::ioctl(fd, SIOCOUTQNSD, &bytes) == 0, "a TCP socket tells what is not sent");
  return bytes;
}

TYPED_TEST(IoContract, HeldBackReplyGoesWithTheNextBytes) {
  Driven<TypeParam> io;
  int held = 0;
  // The kernel lets go of it after 200 ms, which a machine under load may spend elsewhere.
  for (int round = 0; round < 100 && held == 0; ++round) {
    const Connection connection = make_connection();
    io->reply(kReply, connection.server.get(), 0, kPlus, true);
    ASSERT_EQ(io.result_of(kReply), 3);
    held = held_back_bytes(connection.server.get());
    send_text(connection.server, "220 hello\r\n");
    EXPECT_EQ(receive_text(connection.client.get(), 14), "+\r\n220 hello\r\n");
  }
  EXPECT_EQ(held, 3);
  const Connection connection = make_connection();
  io->reply(kReply, connection.server.get(), 0, kPlus, false);
  ASSERT_EQ(io.result_of(kReply), 3);
  EXPECT_EQ(held_back_bytes(connection.server.get()), 0);
}

// Whichever step fails, it is one completion. The submission queue is small and the replies start
// at odd places, so that one is submitted in two parts.
TYPED_TEST(IoContract, ReplyToAPeerThatIsGoneFailsOnce) {
  Driven<TypeParam> io({.operations_max = 16, .descriptors_max = 65536});
  std::vector<Connection> connections;
  for (int i = 0; i < 40; ++i) {
    connections.push_back(make_connection());
    reset(connections.back().client);
    ASSERT_TRUE(becomes(connections.back().server.get(), POLLIN));
  }
  std::array<char, 8> buffer{};
  const Connection odd = make_connection();
  io->peek(kPeek, odd.server.get(), buffer);
  for (std::uint32_t i = 0; i < connections.size(); ++i)
    io->reply(tag_of(Operation::kReply, i), connections[i].server.get(), 4, kPlus, false);
  for (std::uint32_t i = 0; i < connections.size(); ++i)
    EXPECT_EQ(io.result_of(tag_of(Operation::kReply, i)), -ECONNRESET);
  EXPECT_TRUE(io.nothing_else());
  for (std::uint32_t i = 0; i < connections.size(); ++i)  // the error is spent; the end remains
    io->reply(tag_of(Operation::kReply, i), connections[i].server.get(), 0, kPlus, false);
  for (std::uint32_t i = 0; i < connections.size(); ++i)
    EXPECT_EQ(io.result_of(tag_of(Operation::kReply, i)), -EPIPE);
  EXPECT_TRUE(io.nothing_else());
  EXPECT_EQ(kernel_workers(), 0U);
}

TYPED_TEST(IoContract, ReplyAfterLessThanWasPromisedFailsOnce) {
  Driven<TypeParam> io;
  for (const std::string_view sent : {"", "ab"}) {
    for (const bool ended : {false, true}) {
      const Connection connection = make_connection();
      if (!sent.empty()) send_text(connection.client, sent);
      if (ended) ::shutdown(connection.client.get(), SHUT_WR);
      if (ended || !sent.empty()) {
        ASSERT_TRUE(becomes(connection.server.get(), POLLIN));
      }
      io->reply(kReply, connection.server.get(), 4, kPlus, false);
      EXPECT_EQ(io.result_of(kReply), -ENODATA);
      EXPECT_TRUE(io.nothing_else());
    }
  }
}

// To the last byte: a full queue still takes what fits into its last segment.
void fill_send_queue(int fd) {
  const std::string much(64 * 1024, 'x');
  for (const std::size_t size : {much.size(), std::size_t{1}})
    while (::send(fd, much.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    }
  TCPMUX_CHECK(errno == EAGAIN, "the queue is full");
}

TYPED_TEST(IoContract, ReplyWaitsForAClientThatDoesNotRead) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const int fd = connection.server.get();
  send_text(connection.client, "name\r\n");  // before: its segment says how much was received
  ASSERT_TRUE(becomes(fd, POLLIN));
  fill_send_queue(fd);
  io->reply(kReply, fd, 6, kPlus, false);
  EXPECT_TRUE(io.nothing_else());
  io->cancel(kReply, fd);
  EXPECT_EQ(io.result_of(kReply), -ECANCELED);
  EXPECT_TRUE(io.nothing_else());

  io->reply(kReply, fd, 0, kPlus, false);
  EXPECT_TRUE(io.nothing_else());
  std::optional<Completion> completion;
  std::array<char, 64 * 1024> buffer;
  while (!completion && ::recv(connection.client.get(), buffer.data(), buffer.size(), 0) > 0) {
    io.settle();
    completion = io.claim(kReply);
  }
  ASSERT_TRUE(completion.has_value());
  EXPECT_EQ(completion->result, 3);
}

TYPED_TEST(IoContract, ReplyMayBeShort) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const std::string much(64 << 20, 'x');
  io->reply(kReply, connection.server.get(), 0, much, false);
  const int sent = io.result_of(kReply);
  EXPECT_GT(sent, 0);
  EXPECT_LT(sent, static_cast<int>(much.size()));
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoContract, CancelEndsWhatWaits) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const int fd = connection.server.get();
  std::array<char, 8> buffer{};
  io->peek(kPeek, fd, buffer);
  io->cancel(kPeek, fd);  // in the same turn
  EXPECT_EQ(io.result_of(kPeek), -ECANCELED);
  io->drain(kDrain, fd);
  io.settle();
  io->cancel(kDrain, fd);
  EXPECT_EQ(io.result_of(kDrain), -ECANCELED);
  send_text(connection.client, "x");
  ASSERT_TRUE(becomes(fd, POLLIN));
  EXPECT_TRUE(io.nothing_else());
  io->peek(kPeek, fd, buffer);
  EXPECT_EQ(io.result_of(kPeek), 1);
}

TYPED_TEST(IoContract, CancelOfNothingIsNothing) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const int fd = connection.server.get();
  io->cancel(kPeek, fd);
  io->cancel(kReply, fd);
  io->cancel(tag_of(Operation::kAccept), fd);
  EXPECT_TRUE(io.nothing_else());
  send_text(connection.client, "x");
  std::array<char, 8> buffer{};
  io->peek(kPeek, fd, buffer);
  EXPECT_EQ(io.result_of(kPeek), 1);
  io->cancel(kPeek, fd);  // too late
  EXPECT_TRUE(io.nothing_else());
}

// A name with an old generation is another name; and every bit of a name comes back.
TYPED_TEST(IoContract, NamesAreKeptApart) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  std::array<char, 8> buffer{};
  const Tag current = tag_of(Operation::kPeek, 0xFFFFFFFE, 0xFFFFFF);
  io->peek(current, connection.server.get(), buffer);
  io->cancel(tag_of(Operation::kPeek, 0xFFFFFFFE, 0xFFFFFE), connection.server.get());
  io->cancel(tag_of(Operation::kDrain, 0xFFFFFFFE, 0xFFFFFF), connection.server.get());
  io->cancel(tag_of(Operation::kPeek, 0xFFFFFFFD, 0xFFFFFF), connection.server.get());
  EXPECT_TRUE(io.nothing_else());
  send_text(connection.client, "x");
  const std::optional<Completion> completion = io.await(current);
  ASSERT_TRUE(completion.has_value());
  EXPECT_EQ(completion->result, 1);
  EXPECT_EQ(completion->tag.operation, Operation::kPeek);
  EXPECT_EQ(completion->tag.slot.index, 0xFFFFFFFEU);
  EXPECT_EQ(completion->tag.slot.generation, 0xFFFFFFU);
  EXPECT_FALSE(completion->more);
}

TYPED_TEST(IoContract, DrainTakesEverythingUntilTheEnd) {
  Driven<TypeParam> io;
  Connection connection = make_connection();
  const std::string text(200'000, 'x');
  send_text(connection.client, text);
  connection.client.reset();
  std::size_t drained = 0;
  for (int result = 1; result > 0; drained += static_cast<std::size_t>(result)) {
    io->drain(kDrain, connection.server.get());
    result = io.result_of(kDrain);
    ASSERT_GE(result, 0);
  }
  EXPECT_EQ(drained, text.size());
}

TYPED_TEST(IoContract, ShutdownWriteEndsOurSideAndForgivesAPeerThatIsGone) {
  Driven<TypeParam> io;
  Connection connection = make_connection();
  io->shutdown_write(connection.server.get());
  EXPECT_EQ(receive_text(connection.client.get(), 1), "");
  send_text(connection.client, "still heard");
  EXPECT_EQ(receive_text(connection.server.get(), 11), "still heard");
  reset(connection.client);
  ASSERT_TRUE(becomes(connection.server.get(), POLLIN));
  io->shutdown_write(connection.server.get());
}

}  // namespace
}  // namespace tcpmux::contract_test
