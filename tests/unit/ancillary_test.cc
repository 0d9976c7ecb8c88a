// Descriptors in control messages: what is sent arrives, in order and owned; what does not fit is
// closed and said.
#include "handoff/ancillary.h"

#include <fcntl.h>

#include <array>

#include "tests/unit/fake_mux.h"
#include "tests/unit/full_table.h"

namespace tcpmux::handoff {
namespace {

using Kind = Received::Kind;

// A pipe: its reading end says whether anybody still has the writing end.
struct Pipe {
  OwnFd read_end;
  OwnFd write_end;
  Pipe() {
    int both[2];
    EXPECT_EQ(::pipe2(both, O_NONBLOCK), 0);
    read_end = OwnFd(both[0]);
    write_end = OwnFd(both[1]);
  }
  bool write_end_is_closed() const {
    char byte = 0;
    return ::read(read_end.get(), &byte, 1) == 0;
  }
};

class AncillaryTest : public ::testing::Test {
 protected:
  // Sends the writing ends of `count` new pipes, and closes ours.
  void send_pipes(std::size_t count) {
    std::vector<int> numbers;
    pipes_ = std::vector<Pipe>(count);
    for (const Pipe& pipe : pipes_)
      numbers.push_back(pipe.write_end.get());
    ASSERT_EQ(send_now(pair_.ours.get(), std::as_bytes(std::span("x", 1)), numbers), 0);
    for (Pipe& pipe : pipes_)
      pipe.write_end.reset();
  }
  Received receive_into(std::span<OwnFd> places, std::size_t bytes = 16) {
    buffer_.resize(bytes);
    return receive(pair_.theirs.get(), buffer_, places, MSG_DONTWAIT);
  }

  SocketPair pair_ = make_pair();
  std::vector<Pipe> pipes_;
  std::vector<std::byte> buffer_;
  std::array<OwnFd, kDescriptorsMax> places_;
};

TEST_F(AncillaryTest, DescriptorsArriveInOrderAndCloseOnExec) {
  send_pipes(5);
  const Received received = receive_into(places_);
  EXPECT_EQ(received.kind, Kind::kMessage);
  EXPECT_EQ(received.bytes, 1U);
  ASSERT_EQ(received.descriptors, 5U);
  EXPECT_FALSE(received.descriptors_lost);
  EXPECT_FALSE(received.payload_truncated);
  for (std::size_t i = 0; i < 5; ++i) {
    const char mark = static_cast<char>('a' + i);
    EXPECT_EQ(::fcntl(places_[i].get(), F_GETFD), FD_CLOEXEC);
    ASSERT_EQ(::write(places_[i].get(), &mark, 1), 1);
    char got = 0;
    ASSERT_EQ(::read(pipes_[i].read_end.get(), &got, 1), 1);
    EXPECT_EQ(got, mark);
  }
}

TEST_F(AncillaryTest, AsManyAsTheKernelAllows) {
  send_pipes(kDescriptorsMax);
  EXPECT_EQ(receive_into(places_).descriptors, kDescriptorsMax);
}

TEST_F(AncillaryTest, WhatExceedsThePlacesIsClosedAndSaid) {
  send_pipes(5);
  const Received received = receive_into(std::span(places_).first(2));
  EXPECT_EQ(received.descriptors, 2U);
  EXPECT_TRUE(received.descriptors_lost);
  EXPECT_FALSE(pipes_[0].write_end_is_closed());
  EXPECT_FALSE(pipes_[1].write_end_is_closed());
  for (std::size_t i = 2; i < 5; ++i)
    EXPECT_TRUE(pipes_[i].write_end_is_closed()) << i;
}

TEST_F(AncillaryTest, WhatExceedsTheTableIsSaid) {
  send_pipes(5);
  FullTable table(128);
  table.take_all();
  table.give_back(2);
  const Received received = receive_into(places_);
  EXPECT_EQ(received.kind, Kind::kMessage);
  EXPECT_EQ(received.descriptors, 2U);
  EXPECT_TRUE(received.descriptors_lost);
  EXPECT_TRUE(pipes_[4].write_end_is_closed());
}

TEST_F(AncillaryTest, ALongerMessageIsSaidToBeCut) {
  ASSERT_EQ(send_now(pair_.ours.get(), std::as_bytes(std::span("0123456789", 10)), {}), 0);
  const Received received = receive_into(places_, 4);
  EXPECT_EQ(received.bytes, 4U);
  EXPECT_TRUE(received.payload_truncated);
}

TEST_F(AncillaryTest, TellsNothingFromTheEndAndFromAnError) {
  EXPECT_EQ(receive_into(places_).kind, Kind::kEmpty);
  send_pipes(1);
  pair_.ours.reset();
  EXPECT_EQ(receive_into(places_).kind, Kind::kMessage) << "what was sent before the end";
  EXPECT_EQ(receive_into(places_).kind, Kind::kEnd);
  const Pipe not_a_socket;
  const Received received = receive(not_a_socket.read_end.get(), buffer_, places_, 0);
  EXPECT_EQ(received.kind, Kind::kError);
  EXPECT_EQ(received.error, ENOTSOCK);
}

TEST_F(AncillaryTest, SendingToNobodyIsAnErrorAndNoSignal) {
  pair_.theirs.reset();
  EXPECT_EQ(send_now(pair_.ours.get(), std::as_bytes(std::span("x", 1)), {}), EPIPE);
}

TEST_F(AncillaryTest, SendingNeverWaits) {
  int sent = 0;
  int error = 0;
  while (error == 0 && sent < 1'000'000) {
    error = send_now(pair_.ours.get(), std::as_bytes(std::span("x", 1)), {});
    ++sent;
  }
  EXPECT_EQ(error, EAGAIN);
}

TEST(AncillaryDeathTest, AnEmptyPayloadIsABug) {
  const SocketPair pair = make_pair();
  EXPECT_DEATH(send_now(pair.ours.get(), {}, {}), "empty payload");
}

}  // namespace
}  // namespace tcpmux::handoff
