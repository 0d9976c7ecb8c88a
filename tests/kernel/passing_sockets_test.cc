// Descriptors in messages (SCM_RIGHTS): what every handoff rests on.
#include <gtest/gtest.h>

#include "tests/kernel/ring.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {
namespace {

// Fact: IORING_OP_SENDMSG carries SCM_RIGHTS (Linux 5.12).
// Why: the io_uring engine hands sockets over without leaving the ring.
TEST(PassingSockets, IoUringSendmsgCarriesDescriptors) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Lane lane = make_lane();
  Pipe pipe = make_pipe();
  const std::array fds{pipe.write_end.get()};
  OutgoingMessage message("one", fds);
  const Completion sent = ring.run([&](io_uring_sqe* sqe) {
    ::io_uring_prep_sendmsg(sqe, lane.sender.get(), &message.header(), MSG_DONTWAIT | MSG_NOSIGNAL);
  });
  ASSERT_EQ(sent.result, 3);
  pipe.write_end.reset();

  const Received received = receive_message(lane.receiver.get());
  EXPECT_EQ(received.payload, "one");
  EXPECT_EQ(received.flags & MSG_CTRUNC, 0);
  ASSERT_EQ(received.fds.size(), 1U);
  EXPECT_TRUE(leads_to(received.fds[0].get(), pipe));
}

// Fact: a message carries 253 descriptors at most (SCM_MAX_FD, since Linux 2.6.38); 254 are
// EINVAL and nothing is sent.
// Why: it bounds the batch that a backend may ask for.
TEST(PassingSockets, SendmsgTakes253DescriptorsAndNoMore) {
  const Lane lane = make_lane();
  const Pipe pipe = make_pipe();
  const std::vector<int> fds(kMessageFdsMax + 1, pipe.write_end.get());
  EXPECT_EQ(send_message(lane.sender.get(), "x", fds), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(receive_message(lane.receiver.get()).error, EAGAIN);

  ASSERT_EQ(send_message(lane.sender.get(), "x", std::span(fds).first(kMessageFdsMax)), 1);
  const Received received = receive_message(lane.receiver.get());
  EXPECT_EQ(received.fds.size(), kMessageFdsMax);
  EXPECT_EQ(received.flags & MSG_CTRUNC, 0);
}

// The same limit for IORING_OP_SENDMSG, which says it in the completion.
TEST(PassingSockets, IoUringSendmsgTakes253DescriptorsAndNoMore) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Lane lane = make_lane();
  const Pipe pipe = make_pipe();
  const std::vector<int> fds(kMessageFdsMax + 1, pipe.write_end.get());
  const auto send = [&](std::size_t count) {
    OutgoingMessage message("x", std::span(fds).first(count));
    return ring
        .run([&](io_uring_sqe* sqe) {
          ::io_uring_prep_sendmsg(sqe, lane.sender.get(), &message.header(), MSG_NOSIGNAL);
        })
        .result;
  };
  EXPECT_EQ(send(kMessageFdsMax + 1), -EINVAL);
  EXPECT_EQ(receive_message(lane.receiver.get()).error, EAGAIN);
  EXPECT_EQ(send(kMessageFdsMax), 1);
  EXPECT_EQ(receive_message(lane.receiver.get()).fds.size(), kMessageFdsMax);
}

// Fact: on SOCK_STREAM a message without payload "succeeds" and its descriptors are dropped.
// Why: a handoff always has a byte, raw lanes too; else a client would be lost without an error.
TEST(PassingSockets, StreamDropsDescriptorsWithoutPayload) {
  const Lane lane = make_lane(SOCK_STREAM);
  Pipe pipe = make_pipe();
  EXPECT_EQ(send_message(lane.sender.get(), "", std::array{pipe.write_end.get()}), 0);
  pipe.write_end.reset();
  EXPECT_TRUE(ends(pipe));
  EXPECT_EQ(receive_message(lane.receiver.get()).error, EAGAIN);
}

// Fact: of a message only the msghdr and the iovec array are copied when a request is submitted;
// control bytes and payload are read when it is issued, which a link or a full queue delays.
// Why: a handoff's buffers, and the descriptor numbers in them, are frozen until its completion.
TEST(PassingSockets, LinkedSendReadsControlAndPayloadWhenIssued) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Lane lane = make_lane();
  const Pipe gate = make_pipe();  // the first step waits for a byte in it
  const Pipe early = make_pipe();
  const Pipe late = make_pipe();
  OutgoingMessage message("early", std::array{early.write_end.get()});

  io_uring_sqe* first = ring.sqe();
  ::io_uring_prep_poll_add(first, gate.read_end.get(), POLLIN);
  ::io_uring_sqe_set_flags(first, IOSQE_IO_LINK);
  ::io_uring_sqe_set_data64(first, 1);
  io_uring_sqe* second = ring.sqe();
  ::io_uring_prep_sendmsg(second, lane.sender.get(), &message.header(), MSG_NOSIGNAL);
  ::io_uring_sqe_set_data64(second, 2);
  ASSERT_EQ(ring.submit(), 2);

  message.payload().replace(0, 5, "later");
  message.replace_first_fd(late.write_end.get());
  std::string elsewhere = "wrong";
  message.part().iov_base = elsewhere.data();  // too late: the iovec array was copied
  message.header().msg_iovlen = 0;             // and so was the msghdr
  ASSERT_EQ(::write(gate.write_end.get(), "x", 1), 1);
  EXPECT_EQ(ring.wait().user_data, 1U);
  const Completion sent = ring.wait();
  EXPECT_EQ(sent.user_data, 2U);
  EXPECT_EQ(sent.result, 5);

  const Received received = receive_message(lane.receiver.get());
  EXPECT_EQ(received.payload, "later");
  ASSERT_EQ(received.fds.size(), 1U);
  EXPECT_TRUE(leads_to(received.fds[0].get(), late));
}

// The case to fear: the queue is full, the send waits for room, and meanwhile the descriptor in
// it is closed and its number reused. What arrives is the other file: another client.
TEST(PassingSockets, WaitingSendPassesWhateverItsNumberMeansLater) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const Lane lane = make_lane();
  const Pipe meant = make_pipe();
  const Pipe other = make_pipe();
  while (send_message(lane.sender.get(), "fill") > 0) {
  }
  ASSERT_EQ(errno, EAGAIN);

  OutgoingMessage message("waited", std::array{meant.write_end.get()});
  ::io_uring_prep_sendmsg(ring.sqe(), lane.sender.get(), &message.header(), MSG_NOSIGNAL);
  ASSERT_EQ(ring.submit(), 1);
  Completion sent;
  ASSERT_FALSE(ring.take_ready(sent)) << "a full queue made a send without MSG_DONTWAIT wait";
  ASSERT_EQ(::dup2(other.write_end.get(), meant.write_end.get()), meant.write_end.get());
  while (receive_message(lane.receiver.get()).result > 0) {
  }
  ASSERT_EQ(ring.wait().result, 6);

  const Received received = receive_message(lane.receiver.get());
  EXPECT_EQ(received.payload, "waited");
  ASSERT_EQ(received.fds.size(), 1U);
  EXPECT_TRUE(leads_to(received.fds[0].get(), other));
  EXPECT_TRUE(ends(meant));
}

// What a receiver with `control_size` gets of a message with three descriptors.
void expect_survivors(std::size_t control_size, std::size_t survivors) {
  const Lane lane = make_lane();
  std::array<Pipe, 3> pipes{make_pipe(), make_pipe(), make_pipe()};
  const std::array fds{pipes[0].write_end.get(), pipes[1].write_end.get(),
                       pipes[2].write_end.get()};
  ASSERT_EQ(send_message(lane.sender.get(), "x", fds), 1);
  for (Pipe& pipe : pipes)
    pipe.write_end.reset();

  const Received received = receive_message(lane.receiver.get(), control_size);
  EXPECT_EQ(received.result, 1);
  EXPECT_EQ((received.flags & MSG_CTRUNC) != 0, survivors < pipes.size());
  ASSERT_EQ(received.fds.size(), survivors);
  for (std::size_t i = 0; i < pipes.size(); ++i) {
    if (i < survivors) {
      EXPECT_TRUE(leads_to(received.fds[i].get(), pipes[i])) << i;
    } else {
      EXPECT_TRUE(ends(pipes[i])) << i;
    }
  }
}

// Fact: descriptors for which the receiver's control buffer has no room are destroyed: recvmsg
// succeeds with MSG_CTRUNC, and the other side sees EOF.
// Why: a message never has more sockets than the backend said it takes, and the library looks at
// MSG_CTRUNC.
TEST(PassingSockets, TooSmallControlBufferDestroysDescriptors) {
  expect_survivors(CMSG_LEN(3 * sizeof(int)), 3);
  expect_survivors(CMSG_LEN(1 * sizeof(int)), 1);
  expect_survivors(0, 0);
}

// Fact: CMSG_SPACE(4) has room for two descriptors where size_t has 64 bits: the space is
// rounded up, and the kernel fills it.
// Why: a receiver sizes its buffer with CMSG_SPACE and closes all that it gets, not only the one
// that it asked for.
TEST(PassingSockets, SpaceForOneDescriptorHoldsTwo) {
  if (sizeof(std::size_t) != 8) GTEST_SKIP() << "control messages are padded to 8 bytes on 64-bit";
  expect_survivors(CMSG_SPACE(sizeof(int)), 2);
}

// Fact: descriptors for which the receiver's table has no room are destroyed likewise, though the
// control buffer was large enough.
// Why: the library keeps a message's worth of descriptors in reserve before it receives.
TEST(PassingSockets, FullDescriptorTableDestroysDescriptors) {
  const Lane lane = make_lane();
  std::array<Pipe, 3> pipes{make_pipe(), make_pipe(), make_pipe()};
  const std::array fds{pipes[0].write_end.get(), pipes[1].write_end.get(),
                       pipes[2].write_end.get()};
  ASSERT_EQ(send_message(lane.sender.get(), "x", fds), 1);
  for (Pipe& pipe : pipes)
    pipe.write_end.reset();
  EXPECT_EQ(in_child([&]() -> std::string {
              const FullDescriptorTable table(1);
              const Received received = receive_message(lane.receiver.get());
              TCPMUX_CHILD_EXPECT(received.result == 1);
              TCPMUX_CHILD_EXPECT((received.flags & MSG_CTRUNC) != 0);
              TCPMUX_CHILD_EXPECT(received.fds.size() == 1);
              TCPMUX_CHILD_EXPECT(leads_to(received.fds[0].get(), pipes[0]));
              TCPMUX_CHILD_EXPECT(ends(pipes[1]));
              TCPMUX_CHILD_EXPECT(ends(pipes[2]));
              return "";
            }),
            "");
}

// Fact: more descriptors of one user in flight than the sender's RLIMIT_NOFILE are ETOOMANYREFS
// (not for CAP_SYS_RESOURCE and CAP_SYS_ADMIN), and POLLOUT stays set (Linux 4.5).
// Why: the sum of windows stays below the limit, and who meets it waits by a timer: waiting for
// POLLOUT would spin.
TEST(PassingSockets, TooManyInFlightIsNotSeenByPoll) {
  const Lane lane = make_lane();
  const Pipe pipe = make_pipe();
  constexpr uid_t kNobody = 65534;
  if (::geteuid() == 0 && in_child([]() -> std::string {
                            TCPMUX_CHILD_EXPECT(::setuid(kNobody) == 0);
                            return "";
                          }) != "")
    GTEST_SKIP() << "root is exempt, and cannot become another user here";
  EXPECT_EQ(in_child([&]() -> std::string {
              if (::geteuid() == 0) TCPMUX_CHILD_EXPECT(::setuid(kNobody) == 0);
              TCPMUX_CHILD_EXPECT(lower_fd_limit(16));
              const std::array fds{pipe.write_end.get()};
              int sent = 0;
              while (sent <= 17 && send_message(lane.sender.get(), "x", fds) == 1)
                ++sent;
              TCPMUX_CHILD_EXPECT(errno == ETOOMANYREFS);
              TCPMUX_CHILD_EXPECT(sent <= 17);
              TCPMUX_CHILD_EXPECT((wait_for(lane.sender.get(), POLLOUT) & POLLOUT) != 0);
              TCPMUX_CHILD_EXPECT(send_message(lane.sender.get(), "x", fds) == -1);
              TCPMUX_CHILD_EXPECT(errno == ETOOMANYREFS);
              TCPMUX_CHILD_EXPECT(send_message(lane.sender.get(), "bytes only") > 0);
              return "";
            }),
            "");
}

}  // namespace
}  // namespace tcpmux::kernel_test
