// The mailbox: nothing lost, nothing kept, a full one refuses, and its reader is always woken.
#include "core/base/mailbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/fd.h"

namespace tcpmux {
namespace {

struct Pipe {
  OwnFd read_end;
  OwnFd write_end;
  Pipe() {
    int ends[2];
    TCPMUX_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe for a test");
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
  // The other end sees EOF exactly when no copy of the write end is open.
  bool write_end_is_closed() const {
    char byte;
    return ::read(read_end.get(), &byte, 1) == 0;
  }
};

bool is_readable(int fd) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) == 1;
}

void reset_wakeup(int fd) {
  std::uint64_t count;
  TCPMUX_CHECK(::read(fd, &count, sizeof count) == sizeof count, "the eventfd was readable");
}

TEST(Mailbox, DeliversInOrderAcrossTheEndOfItsArray) {
  Mailbox<int> mailbox(3);
  int next_sent = 0;
  int next_received = 0;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 2; ++i)
      ASSERT_TRUE(mailbox.send(next_sent++));
    int message = -1;
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(mailbox.receive(message));
      EXPECT_EQ(message, next_received++);
    }
    EXPECT_FALSE(mailbox.receive(message));
  }
}

TEST(Mailbox, WhenFullTheMessageStaysTheSenders) {
  Mailbox<std::unique_ptr<int>> mailbox(1);
  ASSERT_TRUE(mailbox.send(std::make_unique<int>(1)));
  std::unique_ptr<int> second = std::make_unique<int>(2);
  EXPECT_FALSE(mailbox.send(std::move(second)));
  ASSERT_NE(second, nullptr);
  std::unique_ptr<int> received;
  ASSERT_TRUE(mailbox.receive(received));
  EXPECT_EQ(*received, 1);
  EXPECT_TRUE(mailbox.send(std::move(second)));
  EXPECT_FALSE(Mailbox<int>(0).send(1));
}

TEST(Mailbox, ClosesDescriptorsThatNobodyReceived) {
  Pipe pipe;
  {
    Mailbox<OwnFd> mailbox(2);
    ASSERT_TRUE(mailbox.send(std::move(pipe.write_end)));
    EXPECT_FALSE(pipe.write_end_is_closed());
  }
  EXPECT_TRUE(pipe.write_end_is_closed());
}

TEST(Mailbox, KeepsNoCopyOfWhatWasReceived) {
  Pipe pipe;
  Mailbox<OwnFd> mailbox(2);
  ASSERT_TRUE(mailbox.send(std::move(pipe.write_end)));
  OwnFd received;
  ASSERT_TRUE(mailbox.receive(received));
  received.reset();
  EXPECT_TRUE(pipe.write_end_is_closed());
}

TEST(Mailbox, WakesItsReader) {
  Mailbox<int> mailbox(4);
  EXPECT_FALSE(is_readable(mailbox.wakeup_fd()));
  ASSERT_TRUE(mailbox.send(1));
  EXPECT_TRUE(is_readable(mailbox.wakeup_fd()));
  reset_wakeup(mailbox.wakeup_fd());
  int message;
  ASSERT_TRUE(mailbox.receive(message));
  EXPECT_FALSE(is_readable(mailbox.wakeup_fd()));
  ASSERT_TRUE(mailbox.send(2));
  EXPECT_TRUE(is_readable(mailbox.wakeup_fd())) << "the first message after it was emptied";
  reset_wakeup(mailbox.wakeup_fd());
  mailbox.wake();
  EXPECT_TRUE(is_readable(mailbox.wakeup_fd())) << "without a message";
}

TEST(Mailbox, ManySendersLoseNothingAndTheReaderIsAlwaysWoken) {
  constexpr int kSenders = 3;
  constexpr int kMessages = 20'000;
  Mailbox<std::pair<int, int>> mailbox(16);
  std::vector<std::thread> senders;
  for (int sender = 0; sender < kSenders; ++sender) {
    senders.emplace_back([&mailbox, sender] {
      for (int i = 0; i < kMessages; ++i)
        while (!mailbox.send({sender, i}))
          std::this_thread::yield();
    });
  }
  std::vector<int> next(kSenders, 0);
  bool in_order = true;
  bool woken = true;
  for (int count = 0; count < kSenders * kMessages && woken;) {
    pollfd poll{.fd = mailbox.wakeup_fd(), .events = POLLIN, .revents = 0};
    woken = ::poll(&poll, 1, 20'000) == 1;
    if (!woken) break;
    reset_wakeup(mailbox.wakeup_fd());
    std::pair<int, int> message;
    for (; mailbox.receive(message); ++count)
      in_order &= message.second == next[static_cast<std::size_t>(message.first)]++;
  }
  EXPECT_TRUE(woken) << "messages waited, and nobody was told";
  EXPECT_TRUE(in_order);
  std::pair<int, int> rest;
  while (!woken && mailbox.receive(rest))
    std::this_thread::yield();
  for (std::thread& sender : senders)
    sender.join();
  EXPECT_EQ(next, std::vector<int>(kSenders, kMessages));
}

}  // namespace
}  // namespace tcpmux
