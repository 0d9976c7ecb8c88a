// The engines themselves: making and sharing rings, waking them, and how epoll holds its files.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <thread>

#include "tests/kernel/ring.h"
#include "tests/kernel/support.h"

namespace tcpmux::kernel_test {
namespace {

// ---- Rings

#define SKIP_WITHOUT_DEFER_TASKRUN(ring) \
  if (!(ring).ready()) GTEST_SKIP() << "no DEFER_TASKRUN before Linux 6.1; " << (ring).refusal()

// Fact: with DEFER_TASKRUN a completion of what waited is made only when its thread enters the
// kernel for events; until then the queue's memory shows nothing (6.1).
// Why: the shard decides when it is interrupted; and looking at the memory alone is not enough to
// know that nothing is ready.
TEST(Rings, DeferredTaskrunCompletesOnlyOnEnter) {
  Ring ring({.flags = Ring::kBestFlags, .cq_entries = 0});
  SKIP_WITHOUT_DEFER_TASKRUN(ring);
  const Pipe pipe = make_pipe();
  ::io_uring_prep_poll_add(ring.sqe(), pipe.read_end.get(), POLLIN);
  ASSERT_EQ(ring.submit(), 1);
  ASSERT_EQ(::write(pipe.write_end.get(), "x", 1), 1);
  ASSERT_NE(wait_for(pipe.read_end.get(), POLLIN), 0);
  Completion completion;
  EXPECT_FALSE(ring.take_visible(completion));
  ASSERT_TRUE(ring.take_ready(completion));
  EXPECT_NE(completion.result & POLLIN, 0);
}

// Fact: a ring made with SINGLE_ISSUER belongs to the thread that made it: io_uring_enter from
// another is EEXIST (6.0), and what was queued is still there for the owner.
// Why: each shard makes its ring on its own thread.
TEST(Rings, OnlyItsThreadSubmits) {
  Ring ring({.flags = Ring::kBestFlags, .cq_entries = 0});
  SKIP_WITHOUT_DEFER_TASKRUN(ring);
  ::io_uring_prep_nop(ring.sqe());
  int from_other_thread = 0;
  std::thread([&] { from_other_thread = ring.submit(); }).join();
  EXPECT_EQ(from_other_thread, -EEXIST);
  EXPECT_EQ(ring.submit(), 1);
  EXPECT_EQ(ring.wait().result, 0);
}

// Fact: completions beyond the queue's size are kept by the kernel and delivered later
// (IORING_FEAT_NODROP, 5.5).
// Why: no descriptor and no buffer is lost by a burst; the size of the queue is a matter of speed.
TEST(Rings, OverflowDropsNothing) {
  Ring best;
  TCPMUX_SKIP_WITHOUT(best);
  EXPECT_NE(best.raw().features & IORING_FEAT_NODROP, 0U);
  Ring ring({.flags = best.raw().flags & Ring::kBestFlags, .cq_entries = 4});
  TCPMUX_SKIP_WITHOUT(ring);
  const Pipe pipe = make_pipe();
  constexpr int kRequests = 32;
  for (int i = 0; i < kRequests; ++i) {
    io_uring_sqe* sqe = ring.sqe();
    ::io_uring_prep_poll_add(sqe, pipe.read_end.get(), POLLIN);
    ::io_uring_sqe_set_data64(sqe, static_cast<__u64>(i));
    ASSERT_EQ(ring.submit(), 1);
  }
  ASSERT_EQ(::write(pipe.write_end.get(), "x", 1), 1);  // completes all of them at once
  ::io_uring_get_events(&ring.raw());
  EXPECT_NE(*ring.raw().sq.kflags & IORING_SQ_CQ_OVERFLOW, 0U) << "the queue did overflow";
  std::vector<int> seen(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    const Completion completion = ring.wait();
    ASSERT_LT(completion.user_data, seen.size());
    EXPECT_NE(completion.result & POLLIN, 0);
    ++seen[static_cast<std::size_t>(completion.user_data)];
  }
  EXPECT_EQ(seen, std::vector<int>(kRequests, 1));
  EXPECT_TRUE(ring.is_quiet());
}

// Fact: with SUBMIT_ALL one bad request does not stop those behind it from being submitted; without
// it, it does (5.18).
// Why: one connection's error never delays the others' requests.
TEST(Rings, SubmitAllGoesPastBadRequest) {
  constexpr __u8 kNoSuchOperation = 255;
  for (const unsigned flags : {0U, unsigned{IORING_SETUP_SUBMIT_ALL}}) {
    Ring ring({.flags = flags, .cq_entries = 0});
    TCPMUX_SKIP_WITHOUT(ring);
    io_uring_sqe* bad = ring.sqe();
    ::io_uring_prep_nop(bad);
    bad->opcode = kNoSuchOperation;
    ::io_uring_prep_nop(ring.sqe());
    EXPECT_EQ(ring.submit(), flags == 0 ? 1 : 2);
    EXPECT_EQ(ring.wait().result, -EINVAL);
    if (flags != 0) {
      EXPECT_EQ(ring.wait().result, 0);
    }
  }
}

// Fact: an eventfd wakes a ring through one multishot POLL_ADD, from any thread, once for each
// time that it becomes readable (5.13).
// Why: the mailbox wakes its shard so.
TEST(Rings, EventfdWakesByMultishotPoll) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  const OwnFd wakeup(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ::io_uring_prep_poll_multishot(ring.sqe(), wakeup.get(), POLLIN);
  ASSERT_EQ(ring.submit(), 1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(ring.is_quiet());
    std::thread other([&] { EXPECT_EQ(::eventfd_write(wakeup.get(), 1), 0); });
    const Completion completion = ring.wait();
    other.join();
    EXPECT_GT(completion.result, 0);
    EXPECT_NE(completion.result & POLLIN, 0);
    EXPECT_TRUE(completion.more());
    eventfd_t count = 0;
    EXPECT_EQ(::eventfd_read(wakeup.get(), &count), 0);
    EXPECT_EQ(count, 1U);
  }
}

// Fact: IORING_OP_READ of an eventfd waits for it too, with O_NONBLOCK as without (seen on 6.18).
// Why: a shard may read the mailbox's eventfd, which is nonblocking, instead of polling it.
TEST(Rings, ReadWaitsForEventfd) {
  Ring ring;
  TCPMUX_SKIP_WITHOUT(ring);
  for (const int flags : {0, int{EFD_NONBLOCK}}) {
    SCOPED_TRACE(flags);
    const OwnFd wakeup(::eventfd(0, flags | EFD_CLOEXEC));
    eventfd_t count = 0;
    ::io_uring_prep_read(ring.sqe(), wakeup.get(), &count, sizeof count, 0);
    ASSERT_EQ(ring.submit(), 1);
    EXPECT_TRUE(ring.is_quiet());
    std::thread other([&] { EXPECT_EQ(::eventfd_write(wakeup.get(), 7), 0); });
    EXPECT_EQ(ring.wait().result, static_cast<int>(sizeof count));
    other.join();
    EXPECT_EQ(count, 7U);
  }
}

// Fact: where a seccomp filter refuses io_uring_setup with EPERM, as container runtimes do, making
// a ring fails with EPERM and the process goes on.
// Why: the server then uses epoll, and logs why.
TEST(Rings, SeccompRefusesWithEperm) {
  Ring probe;
  TCPMUX_SKIP_WITHOUT(probe);
  const std::string problem = in_child([]() -> std::string {
    std::array<sock_filter, 4> code{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    const sock_fprog filter{.len = code.size(), .filter = code.data()};
    TCPMUX_CHILD_EXPECT(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return "no seccomp";
    const Ring ring;
    TCPMUX_CHILD_EXPECT(!ring.ready());
    TCPMUX_CHILD_EXPECT(ring.error() == EPERM);
    TCPMUX_CHILD_EXPECT(OwnFd(::epoll_create1(EPOLL_CLOEXEC)).valid());
    return "";
  });
  if (problem == "no seccomp") GTEST_SKIP() << "this kernel takes no seccomp filter";
  EXPECT_EQ(problem, "");
}

// ---- epoll

constexpr std::uint64_t kTag = 42;

// An epoll that watches `fd` for input under kTag.
OwnFd watch(int fd) {
  OwnFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kTag}};
  TCPMUX_CHECK(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll takes a socket");
  return epoll;
}

// True exactly when `epoll` reports kTag now. What makes it report has happened before.
bool reports(const OwnFd& epoll) {
  epoll_event event{};
  return ::epoll_wait(epoll.get(), &event, 1, 0) == 1 && event.data.u64 == kTag;
}

// Fact: epoll watches the open file, not the number. A registered socket that is closed here but
// open elsewhere, if only in a lane's queue, still reports, and by its number it can no longer be
// removed. (All versions; epoll(7), questions and answers.)
// Why: the epoll engine removes a socket before it hands it over.
TEST(Epoll, ClosedSocketReportsWhileCopyIsOpen) {
  const Lane lane = make_lane();
  Connection connection = make_connection();
  const OwnFd epoll = watch(connection.server.get());
  const int number = connection.server.get();
  ASSERT_EQ(send_message(lane.sender.get(), "x", std::array{number}), 1);
  connection.server.reset();
  ASSERT_TRUE(send_text(connection.client.get(), "for the backend"));
  ASSERT_NE(wait_for(epoll.get(), POLLIN), 0);
  EXPECT_TRUE(reports(epoll));
  EXPECT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, number, nullptr), -1);
  EXPECT_EQ(errno, EBADF);

  Received received = receive_message(lane.receiver.get());
  ASSERT_EQ(received.fds.size(), 1U);
  EXPECT_TRUE(reports(epoll));
  received.fds.clear();
  EXPECT_FALSE(reports(epoll)) << "the last copy takes the registration with it";
}

// Fact: after EPOLL_CTL_DEL it does not.
TEST(Epoll, RemovedSocketIsSilent) {
  const Lane lane = make_lane();
  Connection connection = make_connection();
  const OwnFd epoll = watch(connection.server.get());
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, connection.server.get(), nullptr), 0);
  ASSERT_EQ(send_message(lane.sender.get(), "x", std::array{connection.server.get()}), 1);
  connection.server.reset();
  ASSERT_TRUE(send_text(connection.client.get(), "for the backend"));
  const Received received = receive_message(lane.receiver.get());
  ASSERT_EQ(received.fds.size(), 1U);
  ASSERT_NE(wait_for(received.fds[0].get(), POLLIN), 0);
  EXPECT_FALSE(reports(epoll));
}

}  // namespace
}  // namespace tcpmux::kernel_test
