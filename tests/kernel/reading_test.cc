// Reading the request line and answering it: peek, discard, links, and how a reply survives.
#include <gtest/gtest.h>

#include "tests/kernel/ring.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {
namespace {

constexpr std::uint64_t kDiscard = 1;
constexpr std::uint64_t kSend = 2;
constexpr std::uint64_t kPeek = 3;
constexpr std::uint64_t kCancel = 4;

// Fact: MSG_PEEK leaves the bytes, and a second peek at the same bytes returns them at once.
// Why: what stands behind the request line stays in the kernel for the backend; and peeking again
// at a partial line without taking it would be a spin.
TEST(Reading, PeekLeavesBytes) {
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "echo\r\nhello"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 11));
  for (int i = 0; i < 2; ++i) {
    std::array<char, 64> seen;
    const ssize_t count =
        ::recv(connection.server.get(), seen.data(), seen.size(), MSG_PEEK | MSG_DONTWAIT);
    ASSERT_EQ(count, 11);
    EXPECT_EQ(std::string_view(seen.data(), 11), "echo\r\nhello");
  }
  EXPECT_EQ(read_stream(connection.server.get(), 11).text, "echo\r\nhello");
}

// The same by IORING_OP_RECV.
TEST(Reading, IoUringPeekLeavesBytes) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "echo\r\nhello"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 11));
  for (int i = 0; i < 2; ++i) {
    std::array<char, 64> seen;
    const Completion completion = ring.run([&](io_uring_sqe* sqe) {
      ::io_uring_prep_recv(sqe, connection.server.get(), seen.data(), seen.size(), MSG_PEEK);
    });
    ASSERT_EQ(completion.result, 11);
    EXPECT_EQ(std::string_view(seen.data(), 11), "echo\r\nhello");
  }
  EXPECT_EQ(read_stream(connection.server.get(), 11).text, "echo\r\nhello");
}

// Fact: recv(nullptr, n, MSG_TRUNC | MSG_WAITALL) on TCP takes exactly n bytes that are there,
// without copying them (MSG_TRUNC: 2.4). For bytes that are not there yet it waits, but a signal
// cuts it short, and so can the teardown of a ring that this thread had (seen on 6.18).
// Why: the request line is consumed so when a peek has seen its end, and nothing behind it.
TEST(Reading, RecvDiscardsExactlyWhatIsThere) {
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "echo\r\nhello"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 11));
  EXPECT_EQ(::recv(connection.server.get(), nullptr, 6, MSG_TRUNC | MSG_WAITALL), 6);
  EXPECT_EQ(read_stream(connection.server.get(), 5).text, "hello");
}

void prepare_discard(io_uring_sqe* sqe, int socket, std::size_t bytes) {
  ::io_uring_prep_recv(sqe, socket, nullptr, bytes, MSG_TRUNC | MSG_WAITALL);
  ::io_uring_sqe_set_data64(sqe, kDiscard);
}

// The same by IORING_OP_RECV, of bytes that are all there.
TEST(Reading, IoUringDiscardsExactlyWhatIsThere) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "echo\r\nhello"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 11));
  const Completion completion =
      ring.run([&](io_uring_sqe* sqe) { prepare_discard(sqe, connection.server.get(), 6); });
  EXPECT_EQ(completion.result, 6);
  EXPECT_EQ(read_stream(connection.server.get(), 5).text, "hello");
}

// Fact: a discard by IORING_OP_RECV of more than is there can take too much. It begins with what
// there is; when more comes it asks for the whole length again, for the count of what is left
// lives in an iterator that only copying moves: of 6 bytes, 2 were there, and 8 were taken (seen
// on 6.18). The completion tells what it took.
// Why: the shard discards only what a peek has seen, never ahead of it. In a chain where the
// discard skips its completion nobody would see that it took too much.
TEST(Reading, IoUringDiscardAheadTellsWhatItTook) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Connection connection = make_connection();
  const std::string late = "ho\r\nhello, world";
  ASSERT_TRUE(send_text(connection.client.get(), "ec"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 2));
  prepare_discard(ring.sqe(), connection.server.get(), 6);
  ASSERT_EQ(ring.submit(), 1);
  EXPECT_TRUE(ring.is_quiet());
  EXPECT_EQ(queue_bytes(connection.server.get(), FIONREAD), 0);
  ASSERT_TRUE(send_text(connection.client.get(), late));
  const int taken = ring.wait().result;
  EXPECT_TRUE(taken == 6 || taken == 8) << taken;
  EXPECT_EQ(::shutdown(connection.client.get(), SHUT_WR), 0);
  EXPECT_EQ(read_stream(connection.server.get()).text,
            late.substr(static_cast<std::size_t>(std::max(taken, 2)) - 2));
}

// ---- Links

// Submits [discard `bytes`] -> [send "+"] as one chain whose first step is silent if it succeeds.
void submit_discard_and_send(Ring& ring, int socket, std::size_t bytes,
                             int discard_flags = MSG_TRUNC | MSG_WAITALL) {
  io_uring_sqe* discard = ring.sqe();
  ::io_uring_prep_recv(discard, socket, nullptr, bytes, discard_flags);
  ::io_uring_sqe_set_data64(discard, kDiscard);
  ::io_uring_sqe_set_flags(discard, IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
  io_uring_sqe* send = ring.sqe();
  ::io_uring_prep_send(send, socket, "+", 1, MSG_NOSIGNAL);
  ::io_uring_sqe_set_data64(send, kSend);
  TCPMUX_CHECK(ring.submit() == 2, "a free ring takes two requests");
}

#define SKIP_WITHOUT_CQE_SKIP(ring)                        \
  TCPMUX_SKIP_WITHOUT(ring);                               \
  if (((ring).raw().features & IORING_FEAT_CQE_SKIP) == 0) \
  GTEST_SKIP() << "no IOSQE_CQE_SKIP_SUCCESS before Linux 5.17"

// Fact: a chain whose steps but the last skip their completion gives exactly one, the last's
// (5.17).
// Why: "take the line and answer" costs the shard one completion.
TEST(Reading, ChainGivesOneCompletion) {
  Ring ring;
  SKIP_WITHOUT_CQE_SKIP(ring);
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "echo\r\nhello"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 11));
  submit_discard_and_send(ring, connection.server.get(), 6);
  const Completion completion = ring.wait();
  EXPECT_EQ(completion.user_data, kSend);
  EXPECT_EQ(completion.result, 1);
  EXPECT_TRUE(ring.is_quiet());
  EXPECT_EQ(read_stream(connection.client.get(), 1).text, "+");
  EXPECT_EQ(queue_bytes(connection.server.get(), FIONREAD), 5);
}

// Fact: when a step fails there is also exactly one completion, and it names that step; the steps
// behind it are neither done nor reported.
// Why: the shard knows from one completion how far it came.
TEST(Reading, FailedChainNamesTheStep) {
  Ring ring;
  SKIP_WITHOUT_CQE_SKIP(ring);
  Connection connection = make_connection();
  const linger reset_on_close{.l_onoff = 1, .l_linger = 0};
  ASSERT_EQ(::setsockopt(connection.client.get(), SOL_SOCKET, SO_LINGER, &reset_on_close,
                         sizeof reset_on_close),
            0);
  connection.client.reset();
  ASSERT_NE(wait_for(connection.server.get(), 0) & POLLHUP, 0);
  submit_discard_and_send(ring, connection.server.get(), 6);
  const Completion completion = ring.wait();
  EXPECT_EQ(completion.user_data, kDiscard);
  EXPECT_EQ(completion.result, -ECONNRESET);
  EXPECT_TRUE(ring.is_quiet());
}

// Fact: EOF before all bytes came breaks a chain with MSG_WAITALL: the completion is the
// discard's, with the bytes that there were.
// Why: no `+` is sent for a line that was not taken whole.
TEST(Reading, ShortDiscardBreaksChain) {
  Ring ring;
  SKIP_WITHOUT_CQE_SKIP(ring);
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "ech"));
  ASSERT_EQ(::shutdown(connection.client.get(), SHUT_WR), 0);
  submit_discard_and_send(ring, connection.server.get(), 6);
  const Completion completion = ring.wait();
  EXPECT_EQ(completion.user_data, kDiscard);
  EXPECT_EQ(completion.result, 3);
  EXPECT_TRUE(ring.is_quiet());
  EXPECT_EQ(tcp_info_of(connection.server.get()).tcpi_data_segs_out, 0U) << "nothing was sent";
}

// Fact: without MSG_WAITALL a short receive does not break it: the send is done.
// Why: so the discard always has MSG_WAITALL.
TEST(Reading, ShortDiscardWithoutWaitallDoesNotBreakChain) {
  Ring ring;
  SKIP_WITHOUT_CQE_SKIP(ring);
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.client.get(), "ech"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 3));
  submit_discard_and_send(ring, connection.server.get(), 6, MSG_TRUNC);
  const Completion completion = ring.wait();
  EXPECT_EQ(completion.user_data, kSend);
  EXPECT_EQ(completion.result, 1);
  EXPECT_EQ(read_stream(connection.client.get(), 1).text, "+");
}

// Fact: a peek that waits for bytes is ended by ASYNC_CANCEL of its user_data with -ECANCELED,
// and takes nothing that comes later.
// Why: a deadline ends the handshake so; the slot is freed only when the peek has completed.
TEST(Reading, WaitingPeekIsCancelled) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Connection connection = make_connection();
  std::array<char, 64> seen{};
  io_uring_sqe* peek = ring.sqe();
  ::io_uring_prep_recv(peek, connection.server.get(), seen.data(), seen.size(), MSG_PEEK);
  ::io_uring_sqe_set_data64(peek, kPeek);
  ASSERT_EQ(ring.submit(), 1);
  ASSERT_TRUE(ring.is_quiet()) << "it waits";
  io_uring_sqe* cancel = ring.sqe();
  ::io_uring_prep_cancel64(cancel, kPeek, 0);
  ::io_uring_sqe_set_data64(cancel, kCancel);
  ASSERT_EQ(ring.submit(), 1);
  std::array<Completion, 2> both{ring.wait(), ring.wait()};
  if (both[0].user_data == kCancel) std::swap(both[0], both[1]);
  EXPECT_EQ(both[0].user_data, kPeek);
  EXPECT_EQ(both[0].result, -ECANCELED);
  EXPECT_EQ(both[1].user_data, kCancel);
  EXPECT_EQ(both[1].result, 0);

  ASSERT_TRUE(send_text(connection.client.get(), "late"));
  ASSERT_TRUE(wait_for_bytes(connection.server.get(), 4));
  EXPECT_TRUE(ring.is_quiet());
  EXPECT_EQ(seen[0], '\0');
}

// ---- A reply that arrives

constexpr std::string_view kUnread = "what the server has not read";

// A connection with kUnread at the server, and a reply of which the client's receive buffer takes
// only a part: the rest waits in the server's send queue, as any reply does for a moment.
struct Replied {
  Connection connection;
  std::size_t reply_bytes;
};

Replied make_replied() {
  constexpr int kClientBuffer = 4096;
  constexpr int kServerBuffer = 256 * 1024;
  Replied replied{.connection = make_connection(kClientBuffer), .reply_bytes = 0};
  const int server = replied.connection.server.get();
  TCPMUX_CHECK(send_text(replied.connection.client.get(), kUnread) &&
                   wait_for_bytes(server, static_cast<int>(kUnread.size())),
               "the client's bytes arrive");
  set_option(server, SOL_SOCKET, SO_SNDBUF, kServerBuffer);
  const std::string reply(std::size_t{kServerBuffer}, '-');
  const ssize_t sent = ::send(server, reply.data(), reply.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  TCPMUX_CHECK(sent > 16 * kClientBuffer, "the send queue takes more than the client does");
  replied.reply_bytes = static_cast<std::size_t>(sent);
  return replied;
}

// Fact: close with unread input sends RST instead of FIN (RFC 2525, 2.17): what of the reply still
// waits in the send queue is destroyed, and the client's stream ends with ECONNRESET.
// Why: a refusal is never followed by a bare close.
TEST(Reading, CloseWithUnreadInputDestroysReply) {
  Replied replied = make_replied();
  replied.connection.server.reset();
  const Stream reply = read_stream(replied.connection.client.get());
  EXPECT_TRUE(reply.ended);
  EXPECT_EQ(reply.error, ECONNRESET);
  EXPECT_LT(reply.text.size(), replied.reply_bytes);
}

// Fact: shutdown(SHUT_WR), reading what came, then close: the client reads all of the reply, then
// EOF.
// Why: this is how a refusal ends.
TEST(Reading, ShutdownAndDrainSavesReply) {
  Replied replied = make_replied();
  ASSERT_EQ(::shutdown(replied.connection.server.get(), SHUT_WR), 0);
  ASSERT_EQ(read_stream(replied.connection.server.get(), kUnread.size()).text, kUnread);
  replied.connection.server.reset();
  const Stream reply = read_stream(replied.connection.client.get());
  EXPECT_TRUE(reply.ended);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.text.size(), replied.reply_bytes);
}

// Fact: MSG_MORE holds the first bytes back for those of the next send, by whatever copy of the
// socket: the client gets both in one segment. The kernel holds them for about 200 ms at most.
// Why: a coalesced `+` travels with the backend's first bytes, one segment less a connection; and
// after 200 ms it goes alone, so a silent backend does not keep the client from its `+`.
TEST(Reading, MoreCoalescesReplyWithNextSend) {
  constexpr int kAttempts = 50;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Connection connection = make_connection();
    const OwnFd backends_copy(::dup(connection.server.get()));
    set_option(backends_copy.get(), IPPROTO_TCP, TCP_NODELAY, 1);  // Nagle is not what holds it
    const std::int64_t start_ns = monotonic_ns();
    ASSERT_TRUE(send_text(connection.server.get(), "+", MSG_MORE));
    const tcp_info held = tcp_info_of(connection.server.get());
    ASSERT_TRUE(send_text(backends_copy.get(), "hello"));
    if (monotonic_ns() - start_ns > 100 * kNanosPerMilli) continue;  // it may have gone alone
    EXPECT_EQ(held.tcpi_data_segs_out, 0U);
    EXPECT_EQ(held.tcpi_notsent_bytes, 1U);
    EXPECT_EQ(tcp_info_of(connection.server.get()).tcpi_data_segs_out, 1U);
    ASSERT_NE(wait_for(connection.client.get(), POLLIN), 0);
    std::array<char, 16> together;
    ASSERT_EQ(::recv(connection.client.get(), together.data(), together.size(), 0), 6);
    EXPECT_EQ(std::string_view(together.data(), 6), "+hello");
    return;
  }
  GTEST_SKIP() << "this machine is too slow: two sends were never within 100 ms";
}

// The end of the same: alone, the byte held back arrives in the end.
TEST(Reading, MoreDeliversAloneInTheEnd) {
  const Connection connection = make_connection();
  ASSERT_TRUE(send_text(connection.server.get(), "+", MSG_MORE));
  EXPECT_EQ(read_stream(connection.client.get(), 1).text, "+");
}

}  // namespace
}  // namespace tcpmux::kernel_test
