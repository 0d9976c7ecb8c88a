// Accepting, at the descriptor limit too; wakeups; waiting.
#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <set>

#include "tests/contract/support.h"

namespace tcpmux::contract_test {
namespace {

template <class Io>
class IoAccept : public EngineTest<Io> {};
TYPED_TEST_SUITE(IoAccept, Engines, EngineNames);

constexpr std::string_view kBusy = "-busy\r\n";
const Tag kAccept = tag_of(Operation::kAccept, 3);

TYPED_TEST(IoAccept, GivesEveryConnectionOnce) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  io->accept(kAccept, listener.get());
  for (int round = 0; round < 3; ++round) {
    std::set<int> numbers;
    std::vector<OwnFd> clients;
    for (int i = 0; i < 100; ++i)
      clients.push_back(connect_to(listener));
    for (int i = 0; i < 100; ++i) {
      const std::optional<Completion> completion = io.await(kAccept);
      ASSERT_TRUE(completion.has_value());
      ASSERT_GE(completion->result, 0);
      EXPECT_TRUE(completion->more);
      EXPECT_TRUE(is_blocking(completion->result));
      EXPECT_TRUE(is_close_on_exec(completion->result));
      numbers.insert(completion->result);
    }
    EXPECT_EQ(numbers.size(), 100U);
    for (const int fd : numbers)
      io->close(fd);
    EXPECT_TRUE(io.nothing_else());
  }
}

TYPED_TEST(IoAccept, TellsListenersApart) {
  Driven<TypeParam> io;
  const OwnFd first = listen_on_loopback();
  const OwnFd second = listen_on_loopback();
  const Tag first_tag = tag_of(Operation::kAccept, 0);
  const Tag second_tag = tag_of(Operation::kAccept, 1);
  io->accept(first_tag, first.get());
  io->accept(second_tag, second.get());
  const OwnFd to_second = connect_to(second);
  const OwnFd accepted_second(io.result_of(second_tag));
  const OwnFd to_first = connect_to(first);
  const OwnFd accepted_first(io.result_of(first_tag));
  send_text(to_first, "1");
  EXPECT_EQ(receive_text(accepted_first.get(), 1), "1");
  send_text(to_second, "2");
  EXPECT_EQ(receive_text(accepted_second.get(), 1), "2");
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoAccept, EndsWhenCancelledAndTakesNobodyMore) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  io->accept(kAccept, listener.get());
  io.settle();
  io->cancel(kAccept, listener.get());
  const std::optional<Completion> end = io.await(kAccept);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->result, -ECANCELED);
  EXPECT_FALSE(end->more);

  const OwnFd client = connect_to(listener);
  EXPECT_TRUE(io.nothing_else());
  EXPECT_TRUE(becomes(listener.get(), POLLIN));  // still in the queue

  const Tag again = tag_of(Operation::kAccept, 3, 1);
  io->accept(again, listener.get());
  const OwnFd accepted(io.result_of(again));
  EXPECT_TRUE(accepted.valid());
}

// A cancel may come when connections are waiting: they are given or left, and the end comes once.
TYPED_TEST(IoAccept, EndsOnceWhenCancelledUnderLoad) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  for (std::uint32_t round = 0; round < 50; ++round) {
    const Tag tag = tag_of(Operation::kAccept, 3, round);
    io->accept(tag, listener.get());
    std::vector<OwnFd> clients;
    for (int i = 0; i < 3; ++i)
      clients.push_back(connect_to(listener));
    io->cancel(tag, listener.get());
    for (bool more = true; more;) {
      const std::optional<Completion> completion = io.await(tag);
      ASSERT_TRUE(completion.has_value());
      EXPECT_TRUE(completion->result >= 0 || completion->result == -ECANCELED);
      if (completion->result >= 0) io->close(completion->result);
      more = completion->more;
    }
  }
  EXPECT_TRUE(io.nothing_else());
}

TYPED_TEST(IoAccept, EndsAtTheDescriptorLimitAndShedsInOrder) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  std::vector<OwnFd> clients;
  for (int i = 0; i < 3; ++i)
    clients.push_back(connect_to(listener));
  {
    const DescriptorLimit limit(static_cast<rlim_t>(next_descriptor()));
    io->accept(kAccept, listener.get());
    const std::optional<Completion> end = io.await(kAccept);
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->result, -EMFILE);
    EXPECT_FALSE(end->more);
    EXPECT_TRUE(io.unclaimed().empty());  // it rests until it is asked for again
    for (const OwnFd& client : clients) {
      EXPECT_EQ(io->shed(listener.get(), kBusy), Shed::kOne);
      EXPECT_EQ(receive_text(client.get(), 64), kBusy);  // and then the end, not a reset
    }
    EXPECT_EQ(io->shed(listener.get(), kBusy), Shed::kNobodyWaits);
  }
  const OwnFd late = connect_to(listener);
  io->accept(kAccept, listener.get());
  const OwnFd accepted(io.result_of(kAccept));
  EXPECT_TRUE(accepted.valid());
}

// What the client has sent already must not turn our FIN into an RST, which destroys the reply.
TYPED_TEST(IoAccept, ShedsWithoutResetWhereTheClientHasSpoken) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  const OwnFd client = connect_to(listener);
  send_text(client, "finger\r\n");
  ASSERT_EQ(io->shed(listener.get(), kBusy), Shed::kOne);
  EXPECT_EQ(receive_text(client.get(), 64), kBusy);
  tcp_info info{};
  socklen_t size = sizeof info;
  ASSERT_EQ(::getsockopt(client.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
  EXPECT_EQ(info.tcpi_state, TCP_CLOSE_WAIT);  // after an RST it would be TCP_CLOSE
}

TYPED_TEST(IoAccept, ShedsAgainAfterItLostItsReserve) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  const OwnFd client = connect_to(listener);
  {
    const DescriptorLimit limit(0);  // not even the number of the reserve can be had
    EXPECT_EQ(io->shed(listener.get(), kBusy), Shed::kNoDescriptor);
    EXPECT_EQ(io->shed(listener.get(), kBusy), Shed::kNoDescriptor);
  }
  EXPECT_EQ(io->shed(listener.get(), kBusy), Shed::kOne);
  EXPECT_EQ(receive_text(client.get(), 64), kBusy);
}

// What was lost at the limit is not to be had there again: it is taken before the newcomers come.
TYPED_TEST(IoAccept, HasItsReserveAgainWhenAcceptingGoesOn) {
  Driven<TypeParam> io;
  const OwnFd listener = listen_on_loopback();
  const OwnFd client = connect_to(listener);
  {
    const DescriptorLimit limit(0);
    ASSERT_EQ(io->shed(listener.get(), kBusy), Shed::kNoDescriptor);
  }
  const DescriptorLimit limit(static_cast<rlim_t>(next_descriptor()) + 1);
  io->accept(kAccept, listener.get());
  ASSERT_EQ(io.result_of(kAccept), -EMFILE);
  ASSERT_EQ(io->shed(listener.get(), kBusy), Shed::kOne);
  EXPECT_EQ(receive_text(client.get(), 64), kBusy);
}

// O_NONBLOCK lives in the open file description, so a listener may come with it from an epoll
// engine of our predecessor, or without it from an io_uring engine.
TYPED_TEST(IoAccept, TakesAListenerAsItComes) {
  for (const bool nonblocking : {false, true}) {
    Driven<TypeParam> io;
    const OwnFd listener = listen_on_loopback();
    set_nonblocking(listener.get(), nonblocking);
    io->accept(kAccept, listener.get());
    EXPECT_TRUE(io.nothing_else());
    EXPECT_EQ(is_blocking(listener.get()), (std::is_same_v<TypeParam, UringBackend>));
    const OwnFd client = connect_to(listener);
    const OwnFd accepted(io.result_of(kAccept));
    EXPECT_TRUE(accepted.valid());
  }
}

TYPED_TEST(IoAccept, TellsBothEndpoints) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  const Endpoints endpoints = io->endpoints(connection.server.get());
  EXPECT_EQ(endpoints.source, endpoint_from(name_of(connection.client.get())));
  EXPECT_EQ(endpoints.destination, endpoint_from(name_of(connection.server.get())));
}

TYPED_TEST(IoAccept, TellsNoSourceOfAPeerThatIsGone) {
  Driven<TypeParam> io;
  Connection connection = make_connection();
  reset(connection.client);
  ASSERT_TRUE(becomes(connection.server.get(), POLLIN));
  const Endpoints endpoints = io->endpoints(connection.server.get());
  EXPECT_EQ(endpoints.source.address.family, IpAddress::Family::kNone);
}

TYPED_TEST(IoAccept, CompletesAWakeupForEachTimeItIsSignalled) {
  Driven<TypeParam> io;
  const OwnFd wakeup(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const Tag tag = tag_of(Operation::kWakeup, 1);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(wakeup.get(), &one, sizeof one), 8);  // before it is watched
  io->watch_wakeups(tag, wakeup.get());
  for (int round = 0; round < 100; ++round) {
    const std::optional<Completion> completion = io.await(tag);
    ASSERT_TRUE(completion.has_value());
    EXPECT_EQ(completion->result, 1);
    EXPECT_TRUE(completion->more);
    std::uint64_t left = 0;
    EXPECT_EQ(::read(wakeup.get(), &left, sizeof left), -1);
    EXPECT_EQ(errno, EAGAIN);
    while (const std::size_t count = io->reap(io.buffer()))
      io.collect(count);
    EXPECT_TRUE(io.unclaimed().empty());
    for (int i = 0; i < 2; ++i)
      ASSERT_EQ(::write(wakeup.get(), &one, sizeof one), 8);
  }
}

// An interrupted wait ends early, which is allowed: by a signal, or by what the kernel still has to
// end for a ring that this thread had before (Linux 6.18). A wait that does not wait ends early
// thousands of times.
template <class Io>
void expect_a_wait_until(Driven<Io>& io, std::int64_t deadline_ns) {
  int waits = 0;
  for (; waits < 20 && monotonic_ns() < deadline_ns; ++waits)
    EXPECT_EQ(io->wait(io.buffer(), deadline_ns), 0U);
  EXPECT_GE(monotonic_ns(), deadline_ns) << "after " << waits << " waits";
}

TYPED_TEST(IoAccept, WaitsUntilTheTimeHasCome) {
  Driven<TypeParam> io;
  EXPECT_EQ(io->reap(io.buffer()), 0U);
  EXPECT_EQ(io->wait(io.buffer(), monotonic_ns() - 1), 0U);
  expect_a_wait_until(io, monotonic_ns() + 20 * kNanosPerMilli);
}

TYPED_TEST(IoAccept, WaitsWithWorkUnderWay) {
  Driven<TypeParam> io;
  const Connection connection = make_connection();
  io->drain(tag_of(Operation::kDrain), connection.server.get());
  expect_a_wait_until(io, monotonic_ns() + 20 * kNanosPerMilli);
  send_text(connection.client, "x");
  EXPECT_EQ(io->wait(io.buffer(), kNever_ns), 1U);
}

}  // namespace
}  // namespace tcpmux::contract_test
