// Messages with descriptors on a lane.
#include "handoff/ancillary.h"

#include <gtest/gtest.h>

#include "tests/contract/support.h"

namespace tcpmux::contract_test {
namespace {

template <class Io>
class IoLane : public EngineTest<Io> {};
TYPED_TEST_SUITE(IoLane, Engines, EngineNames);

struct Lane {
  OwnFd sender;
  OwnFd receiver;
};

Lane make_lane() {
  int ends[2];
  TCPMUX_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0,
               "a test needs a socket pair");
  return {.sender = OwnFd(ends[0]), .receiver = OwnFd(ends[1])};
}

struct Message {
  explicit Message(std::string_view text, std::span<const int> descriptors = {}) {
    handoff::prepare_send(header, vector, std::as_bytes(std::span(text)), control.bytes,
                          descriptors);
  }
  msghdr header{};
  iovec vector{};
  handoff::ControlBuffer<4> control;
};

// What finds no descriptor is destroyed, so whoever receives asks first.
TYPED_TEST(IoLane, KnowsWhetherDescriptorsCanBeHad) {
  Driven<TypeParam> io;
  const int next = next_descriptor();
  {
    const DescriptorLimit limit(static_cast<rlim_t>(next) + 4);
    EXPECT_TRUE(io->has_room_for(4));
    EXPECT_TRUE(io->has_room_for(4)) << "it takes none for good";
    EXPECT_FALSE(io->has_room_for(5));
    EXPECT_EQ(next_descriptor(), next) << "nor when there are too few";
  }
  EXPECT_TRUE(io->has_room_for(64));
}

TYPED_TEST(IoLane, MessageArrivesWithItsDescriptors) {
  Driven<TypeParam> io;
  const Lane lane = make_lane();
  Connection first = make_connection();
  Connection second = make_connection();
  const std::array<int, 2> passed = {first.server.get(), second.server.get()};
  Message message("two", passed);
  EXPECT_EQ(io->send_now(lane.sender.get(), &message.header), 3);
  EXPECT_EQ(io->queued_bytes(lane.receiver.get()), 3U);
  io->close(first.server.release());
  io->close(second.server.release());
  EXPECT_TRUE(io.nothing_else());

  std::array<std::byte, 16> payload{};
  std::array<OwnFd, 4> places;
  const handoff::Received received = handoff::receive(lane.receiver.get(), payload, places, 0);
  ASSERT_EQ(received.kind, handoff::Received::Kind::kMessage);
  EXPECT_EQ(received.bytes, 3U);
  ASSERT_EQ(received.descriptors, 2U);
  send_text(places[0], "1");
  send_text(places[1], "2");
  EXPECT_EQ(receive_text(first.client.get(), 1), "1");
  EXPECT_EQ(receive_text(second.client.get(), 1), "2");
  EXPECT_EQ(io->queued_bytes(lane.receiver.get()), 0U);
}

TYPED_TEST(IoLane, MessageToAFullLaneFailsAtOnce) {
  Driven<TypeParam> io;
  const Lane lane = make_lane();
  Message message("x");
  std::uint32_t sent = 0;
  std::int64_t result = 1;
  while (result == 1) {
    result = io->send_now(lane.sender.get(), &message.header);
    if (result == 1) ++sent;
  }
  EXPECT_EQ(result, -EAGAIN);
  EXPECT_GT(sent, 0U);
  EXPECT_EQ(io->queued_bytes(lane.receiver.get()), sent);

  char byte = 0;
  iovec vector{.iov_base = &byte, .iov_len = 1};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  for (std::uint32_t i = 0; i < sent; ++i)
    EXPECT_EQ(io->receive_now(lane.receiver.get(), &header), 1);
  EXPECT_EQ(io->receive_now(lane.receiver.get(), &header), -EAGAIN);
  EXPECT_EQ(io->send_now(lane.sender.get(), &message.header), 1);
}

TYPED_TEST(IoLane, MessageToAPeerThatIsGoneFails) {
  Driven<TypeParam> io;
  Lane lane = make_lane();
  lane.receiver.reset();
  Message message("x");
  EXPECT_EQ(io->send_now(lane.sender.get(), &message.header), -EPIPE);
  EXPECT_TRUE(io.nothing_else());
}

}  // namespace
}  // namespace tcpmux::contract_test
