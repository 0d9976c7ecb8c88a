// Accepting: multishot accept, limits, deferred accept, shared ports.
#include <gtest/gtest.h>

#include <set>

#include "tests/kernel/ring.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {
namespace {

constexpr std::uint64_t kAccept = 1;
constexpr std::uint64_t kCancel = 2;
constexpr unsigned short kAcceptDontwait = 1U << 1;  // IORING_ACCEPT_DONTWAIT, Linux 6.10

void arm_accept(Ring& ring, int listener, unsigned short extra = 0) {
  io_uring_sqe* sqe = ring.sqe();
  ::io_uring_prep_multishot_accept(sqe, listener, nullptr, nullptr, SOCK_CLOEXEC);
  sqe->ioprio = static_cast<__u16>(sqe->ioprio | extra);
  ::io_uring_sqe_set_data64(sqe, kAccept);
  TCPMUX_CHECK(ring.submit() == 1, "a free ring takes a request");
}

void cancel_accept(Ring& ring) {
  io_uring_sqe* sqe = ring.sqe();
  ::io_uring_prep_cancel64(sqe, kAccept, 0);
  ::io_uring_sqe_set_data64(sqe, kCancel);
  TCPMUX_CHECK(ring.submit() == 1, "a free ring takes a request");
}

// As the server probes it: by doing one. Kernels before 5.19 say EINVAL.
bool has_multishot_accept(unsigned short extra = 0) {
  Ring ring;
  const Listener listener = make_listener();
  const OwnFd client = make_client(listener.endpoint);
  if (!wait_for_backlog(listener.fd.get(), 1)) return false;
  arm_accept(ring, listener.fd.get(), extra);
  const OwnFd accepted(ring.wait().result);
  return accepted.valid();
}

#define SKIP_WITHOUT_MULTISHOT_ACCEPT(ring) \
  TCPMUX_SKIP_WITHOUT(ring);                \
  if (!has_multishot_accept()) GTEST_SKIP() << "no multishot accept before Linux 5.19"

// Fact: one multishot accept delivers one connection after the other, each marked F_MORE (5.19).
// Why: the shard arms it once for each listener.
TEST(Accept, MultishotDeliversSeveral) {
  Ring ring;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(ring);
  const Listener listener = make_listener();
  arm_accept(ring, listener.fd.get());
  for (int i = 0; i < 5; ++i) {
    const OwnFd client = make_client(listener.endpoint);
    const Completion completion = ring.wait();
    const OwnFd accepted(completion.result);
    ASSERT_TRUE(accepted.valid()) << completion.result;
    EXPECT_EQ(completion.user_data, kAccept);
    EXPECT_TRUE(completion.more());
    EXPECT_EQ(peer_endpoint(accepted.get()), local_endpoint(client.get()));
  }
}

// Fact: with IORING_ACCEPT_DONTWAIT a multishot accept takes what waits, then ends with -EAGAIN
// (6.10).
// Why: the backlog is drained without leaving a request behind, when a listener is given up.
TEST(Accept, MultishotDontwaitDrainsBacklog) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  if (!has_multishot_accept(kAcceptDontwait))
    GTEST_SKIP() << "no IORING_ACCEPT_DONTWAIT before Linux 6.10";
  const Listener listener = make_listener();
  std::vector<OwnFd> clients;
  for (int i = 0; i < 3; ++i)
    clients.push_back(make_client(listener.endpoint));
  ASSERT_TRUE(wait_for_backlog(listener.fd.get(), 3));
  arm_accept(ring, listener.fd.get(), kAcceptDontwait);
  for (int i = 0; i < 3; ++i) {
    const Completion completion = ring.wait();
    const OwnFd accepted(completion.result);
    EXPECT_TRUE(accepted.valid()) << completion.result;
    EXPECT_TRUE(completion.more());
  }
  const Completion last = ring.wait();
  EXPECT_EQ(last.result, -EAGAIN);
  EXPECT_FALSE(last.more());
}

// Fact: at the descriptor limit a multishot accept ends with -EMFILE, without F_MORE, before it
// takes a connection: that one stays queued. Armed again it fails again at once, even when no
// connection waits: the descriptor is reserved first. With room it goes on where it was.
// Why: the shard waits, or uses its reserve, before it arms again; nobody's connection is lost.
TEST(Accept, MultishotEndsAtDescriptorLimitAndKeepsConnection) {
  Ring probe;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(probe);
  EXPECT_EQ(
      in_child([]() -> std::string {
        Ring ring;
        const Listener listener = make_listener();
        std::vector<OwnFd> clients;
        for (int i = 0; i < 3; ++i)
          clients.push_back(make_client(listener.endpoint));
        TCPMUX_CHILD_EXPECT(wait_for_backlog(listener.fd.get(), 3));
        FullDescriptorTable table(1);

        arm_accept(ring, listener.fd.get());
        const Completion first = ring.wait();
        const OwnFd first_accepted(first.result);
        TCPMUX_CHILD_EXPECT(first_accepted.valid() && first.more());
        const Completion refused = ring.wait();
        TCPMUX_CHILD_EXPECT(refused.result == -EMFILE && !refused.more());
        TCPMUX_CHILD_EXPECT(backlog_of(listener.fd.get()) == 2);
        arm_accept(ring, listener.fd.get());
        const Completion again = ring.wait();
        TCPMUX_CHILD_EXPECT(again.result == -EMFILE && !again.more());
        TCPMUX_CHILD_EXPECT(backlog_of(listener.fd.get()) == 2);

        table.free(8);
        arm_accept(ring, listener.fd.get());
        for (std::size_t i = 1; i < 3; ++i) {
          const Completion completion = ring.wait();
          TCPMUX_CHILD_EXPECT(completion.result >= 0 && completion.more());
          TCPMUX_CHILD_EXPECT(peer_endpoint(completion.result) == local_endpoint(clients[i].get()));
        }
        TCPMUX_CHILD_EXPECT(backlog_of(listener.fd.get()) == 0);

        const Listener idle = make_listener();
        table.fill();
        arm_accept(ring, idle.fd.get());
        const Completion without_client = ring.wait();
        TCPMUX_CHILD_EXPECT(without_client.result == -EMFILE && !without_client.more());
        return "";
      }),
      "");
}

// Fact: RLIMIT_NOFILE is read when an accept is submitted; raising it later does not help one
// that is armed.
// Why: the server raises its limit before it starts, not when it meets it.
TEST(Accept, DescriptorLimitIsThatOfTheSubmission) {
  Ring probe;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(probe);
  EXPECT_EQ(in_child([]() -> std::string {
              Ring ring;
              const Listener listener = make_listener();
              OwnFd client = tcp_socket();
              FullDescriptorTable table(1);
              arm_accept(ring, listener.fd.get());
              Completion early;
              TCPMUX_CHILD_EXPECT(!ring.take_ready(early));
              table.fill();
              TCPMUX_CHILD_EXPECT(lower_fd_limit(table.limit() + 32));
              TCPMUX_CHILD_EXPECT(OwnFd(::dup(STDERR_FILENO)).valid());
              TCPMUX_CHILD_EXPECT(connect_to(client.get(), listener.endpoint) == 0);
              const Completion refused = ring.wait();
              TCPMUX_CHILD_EXPECT(refused.result == -EMFILE && !refused.more());
              arm_accept(ring, listener.fd.get());
              TCPMUX_CHILD_EXPECT(ring.wait().result >= 0);
              return "";
            }),
            "");
}

// Fact: a multishot accept ends when the completion queue is full, and the completion that ends
// it, without F_MORE, carries a valid descriptor.
// Why: whether there is a descriptor and whether the accept goes on are two questions; one who
// takes "no F_MORE" for an error leaks the client.
TEST(Accept, MultishotEndsOnFullCompletionQueueWithValidDescriptor) {
  Ring best;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(best);
  Ring ring({.flags = best.raw().flags & Ring::kBestFlags, .cq_entries = 2});
  TCPMUX_SKIP_WITHOUT(ring);
  const Listener listener = make_listener();
  std::vector<OwnFd> clients;
  for (int i = 0; i < 8; ++i)
    clients.push_back(make_client(listener.endpoint));
  ASSERT_TRUE(wait_for_backlog(listener.fd.get(), 8));
  arm_accept(ring, listener.fd.get());
  unsigned accepted_count = 0;
  bool more = true;
  while (more) {
    const Completion completion = ring.wait();
    const OwnFd accepted(completion.result);
    ASSERT_TRUE(accepted.valid()) << completion.result;
    EXPECT_NE(peer_endpoint(accepted.get()).port, 0);
    more = completion.more();
    ++accepted_count;
    ASSERT_LE(accepted_count, 8U);
  }
  EXPECT_LT(accepted_count, 8U);
  EXPECT_EQ(backlog_of(listener.fd.get()), 8 - accepted_count);
}

// Fact: a cancelled accept ends with -ECANCELED, without F_MORE, beside the cancel's own result 0.
// Why: the shard waits for the accept's own end before it gives its listener away.
TEST(Accept, CancelEndsMultishot) {
  Ring ring;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(ring);
  const Listener listener = make_listener();
  arm_accept(ring, listener.fd.get());
  cancel_accept(ring);
  bool accept_ended = false;
  bool cancel_ended = false;
  for (int i = 0; i < 2; ++i) {
    const Completion completion = ring.wait();
    EXPECT_FALSE(completion.more());
    if (completion.user_data == kAccept) {
      EXPECT_EQ(completion.result, -ECANCELED);
      accept_ended = true;
    } else {
      EXPECT_EQ(completion.user_data, kCancel);
      EXPECT_EQ(completion.result, 0);
      cancel_ended = true;
    }
  }
  EXPECT_TRUE(accept_ended && cancel_ended);

  const OwnFd client = make_client(listener.endpoint);
  ASSERT_TRUE(wait_for_backlog(listener.fd.get(), 1));
  EXPECT_TRUE(ring.is_quiet()) << "after its end it takes no connection";
}

// Fact: closing a listener does not stop an armed accept: the request holds the file, the port
// stays open and connections are taken. Only its cancel closes the port.
// Why: a shard that drains cancels first.
TEST(Accept, ClosingListenerDoesNotStopArmedAccept) {
  Ring ring;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(ring);
  Listener listener = make_listener();
  arm_accept(ring, listener.fd.get());
  listener.fd.reset();
  const OwnFd client = make_client(listener.endpoint);
  const Completion completion = ring.wait();
  const OwnFd accepted(completion.result);
  EXPECT_TRUE(accepted.valid()) << completion.result;
  EXPECT_TRUE(completion.more());

  cancel_accept(ring);
  EXPECT_NE(ring.wait().result, -ETIME);
  EXPECT_NE(ring.wait().result, -ETIME);
  EXPECT_TRUE(eventually(
      [&] { return connect_to(tcp_socket().get(), listener.endpoint) == ECONNREFUSED; }));
}

// Fact: multishot accepts of two rings on one listening socket work side by side: each connection
// comes to one of them, and when one is cancelled the other takes all.
// Why: shards may share a listener where SO_REUSEPORT is not wanted, and the successor arms its
// own accept on a passed listener before the predecessor has cancelled.
TEST(Accept, TwoRingsShareOneListener) {
  std::array<Ring, 2> rings;
  SKIP_WITHOUT_MULTISHOT_ACCEPT(rings[0]);
  TCPMUX_SKIP_WITHOUT(rings[1]);
  const Listener listener = make_listener();
  for (Ring& ring : rings)
    arm_accept(ring, listener.fd.get());

  std::set<std::uint16_t> unseen;
  const auto accept_until_none_unseen = [&] {
    return eventually([&] {
      for (Ring& ring : rings)
        for (Completion completion; ring.take_ready(completion);) {
          const OwnFd accepted(completion.result);
          EXPECT_TRUE(accepted.valid()) << completion.result;
          EXPECT_TRUE(completion.more());
          EXPECT_EQ(unseen.erase(peer_endpoint(accepted.get()).port), 1U) << "accepted once";
        }
      return unseen.empty();
    });
  };
  std::vector<OwnFd> clients;
  const auto connect_some = [&] {
    for (int i = 0; i < 16; ++i) {
      clients.push_back(make_client(listener.endpoint));
      unseen.insert(local_endpoint(clients.back().get()).port);
    }
  };
  connect_some();
  EXPECT_TRUE(accept_until_none_unseen());

  cancel_accept(rings[0]);
  EXPECT_NE(rings[0].wait().result, -ETIME);
  EXPECT_NE(rings[0].wait().result, -ETIME);
  connect_some();
  EXPECT_TRUE(accept_until_none_unseen());
}

// Fact: with TCP_DEFER_ACCEPT a connection that has bytes is delivered at once, before an older
// one that is silent, and its bytes can be read without waiting (2.4).
// Why: the first peek nearly always finds the request line.
TEST(Accept, DeferredAcceptDeliversConnectionWithBytes) {
  const Listener listener = make_listener();
  constexpr int kDefer_s = 60;  // so long that the silent one stays out in the slowest run
  set_option(listener.fd.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, kDefer_s);
  const OwnFd silent = make_client(listener.endpoint);
  const OwnFd talker = make_client(listener.endpoint);
  ASSERT_TRUE(send_text(talker.get(), "name\r\n"));
  ASSERT_NE(wait_for(listener.fd.get(), POLLIN), 0);
  const OwnFd accepted(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  EXPECT_EQ(peer_endpoint(accepted.get()), local_endpoint(talker.get()));
  std::array<char, 16> line;
  EXPECT_EQ(::recv(accepted.get(), line.data(), line.size(), MSG_DONTWAIT), 6);
  EXPECT_EQ(backlog_of(listener.fd.get()), 0U) << "the silent one waits in the handshake";
}

// Fact: with TCP_DEFER_ACCEPT=1 a silent connection is delivered all the same, after about a
// second.
// Why: it saves work, but the handshake's deadline is still needed; and a client that lets the
// server speak first is late, not lost.
TEST(Accept, DeferredAcceptDeliversSilentConnectionInTheEnd) {
  const Listener listener = make_listener();
  set_option(listener.fd.get(), IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
  const OwnFd silent = make_client(listener.endpoint);
  ASSERT_NE(wait_for(listener.fd.get(), POLLIN), 0);
  const OwnFd accepted(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_EQ(peer_endpoint(accepted.get()), local_endpoint(silent.get()));
}

// Fact: sockets with SO_REUSEPORT listen on one port together and share its connections (3.9).
// Why: each shard has a listener of its own.
TEST(Accept, ReuseportListenersShareConnections) {
  const Listener first = make_listener(loopback(), true);
  const Listener second = make_listener(first.endpoint, true);
  std::array<int, 2> counts{};
  // Which of the two is chosen by a hash of both addresses, so a few clients reach both.
  for (int i = 0; i < 1000 && (counts[0] == 0 || counts[1] == 0); ++i) {
    const OwnFd client = make_client(first.endpoint);
    std::array<pollfd, 2> waiting{{{.fd = first.fd.get(), .events = POLLIN, .revents = 0},
                                   {.fd = second.fd.get(), .events = POLLIN, .revents = 0}}};
    ASSERT_EQ(::poll(waiting.data(), waiting.size(), kDeadline_ms), 1);
    const std::size_t which = waiting[0].revents != 0 ? 0 : 1;
    const OwnFd accepted(::accept4(waiting[which].fd, nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(peer_endpoint(accepted.get()), local_endpoint(client.get()));
    ++counts[which];
  }
  EXPECT_GT(counts[0], 0);
  EXPECT_GT(counts[1], 0);
}

// Fact: a port is shared only by agreement: a bind without SO_REUSEPORT to the port of a listener
// that has it is EADDRINUSE, with SO_REUSEADDR too, and so is the reverse.
// Why: a second program on the port is an error at start, not half of the clients lost to it.
TEST(Accept, PortIsSharedOnlyByAgreement) {
  const Listener sharing = make_listener(loopback(), true);
  const OwnFd stranger = tcp_socket();
  EXPECT_EQ(bind_to(stranger.get(), sharing.endpoint), EADDRINUSE);
  set_option(stranger.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  EXPECT_EQ(bind_to(stranger.get(), sharing.endpoint), EADDRINUSE);

  const Listener alone = make_listener();
  const OwnFd sharer = tcp_socket();
  set_option(sharer.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  EXPECT_EQ(bind_to(sharer.get(), alone.endpoint), EADDRINUSE);
}

// Fact: a listener on [::] with IPV6_V6ONLY=0 takes IPv4 clients too and shows them v4-mapped
// (RFC 4291, 2.5.5.2); with IPV6_V6ONLY=1 it does not take them.
// Why: one listener serves both families, and addresses are unmapped before rules see them.
TEST(Accept, DualStackListenerShowsMappedAddresses) {
  for (const int v6only : {0, 1}) {
    SCOPED_TRACE(v6only);
    const OwnFd listener = tcp_socket(AF_INET6);
    if (!listener.valid()) GTEST_SKIP() << "no IPv6 here: " << std::strerror(errno);
    set_option(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, v6only);
    // [::] is every interface; a test is on the loopback only.
    if (::setsockopt(listener.get(), SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) != 0)
      GTEST_SKIP() << "cannot bind to the loopback device: " << std::strerror(errno);
    // A socket that does not listen keeps the IPv4 port from others, where [::] leaves it free.
    const OwnFd reserved = tcp_socket();
    Endpoint any{.address = {.bytes = {}, .family = IpAddress::Family::kV6}, .port = 0};
    if (v6only == 1) {
      ASSERT_EQ(bind_to(reserved.get(), loopback()), 0);
      any.port = local_endpoint(reserved.get()).port;
    }
    if (const int error = bind_to(listener.get(), any); error != 0)
      GTEST_SKIP() << "no IPv6 here: " << std::strerror(error);
    ASSERT_EQ(::listen(listener.get(), 16), 0);
    const std::uint16_t port = local_endpoint(listener.get()).port;

    const OwnFd v4_client = tcp_socket();
    ASSERT_EQ(connect_to(v4_client.get(), loopback(port)), v6only == 1 ? ECONNREFUSED : 0);
    if (v6only == 1) continue;
    ASSERT_NE(wait_for(listener.get(), POLLIN), 0);
    sockaddr_in6 peer{};
    socklen_t size = sizeof peer;
    const OwnFd accepted(
        ::accept4(listener.get(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC));
    ASSERT_TRUE(accepted.valid());
    EXPECT_EQ(peer.sin6_family, AF_INET6);
    EXPECT_TRUE(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
    const std::array<std::uint8_t, 4> expected{127, 0, 0, 1};
    EXPECT_EQ(std::memcmp(&peer.sin6_addr.s6_addr[12], expected.data(), expected.size()), 0);

    const OwnFd v6_client = tcp_socket(AF_INET6);
    if (connect_to(v6_client.get(), loopback_v6(port)) != 0) continue;  // lo without ::1
    ASSERT_NE(wait_for(listener.get(), POLLIN), 0);
    const OwnFd accepted_v6(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(peer_endpoint(accepted_v6.get()), local_endpoint(v6_client.get()));
  }
}

}  // namespace
}  // namespace tcpmux::kernel_test
