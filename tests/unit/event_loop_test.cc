// The steward's loop: handlers run when their descriptor has something, may remove themselves and
// each other, and ticks come whatever else happens.
#include "core/server/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace tcpmux {
namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    TCPMUX_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "a pipe for a test");
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
  void write() { TCPMUX_CHECK(::write(in.get(), "x", 1) == 1, "a pipe takes a byte"); }
  void read() {
    char byte = 0;
    TCPMUX_CHECK(::read(out.get(), &byte, 1) == 1, "a byte is there");
  }
  OwnFd out;
  OwnFd in;
};

class EventLoopTest : public ::testing::Test {
 protected:
  EventLoopTest() : loop_(*EventLoop::create()) {
    // Only where a handler that is waited for never runs.
    loop_->add_tick(30'000, [this] {
      ADD_FAILURE() << "nothing happens";
      loop_->stop();
    });
  }
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, AHandlerRunsAsLongAsThereIsSomething) {
  Pipe pipe;
  for (int i = 0; i < 3; ++i)
    pipe.write();
  int runs = 0;
  ASSERT_TRUE(loop_->add(pipe.out.get(), [&] {
    pipe.read();
    if (++runs == 3) loop_->stop();
  }));
  loop_->run();
  EXPECT_EQ(runs, 3);
}

TEST_F(EventLoopTest, TheEndOfADescriptorIsSomething) {
  Pipe pipe;
  pipe.in.reset();
  bool ran = false;
  ASSERT_TRUE(loop_->add(pipe.out.get(), [&] {
    ran = true;
    loop_->stop();
  }));
  loop_->run();
  EXPECT_TRUE(ran);
}

TEST_F(EventLoopTest, AHandlerMayRemoveItselfAndLivesUntilItReturns) {
  Pipe pipe;
  pipe.write();
  auto owned = std::make_shared<int>(7);
  std::weak_ptr<int> watch = owned;
  ASSERT_TRUE(loop_->add(pipe.out.get(), [this, &pipe, owned = std::move(owned)] {
    loop_->remove(pipe.out.get());
    EXPECT_EQ(*owned, 7);
    loop_->stop();
  }));
  loop_->run();
  EXPECT_TRUE(watch.expired()) << "and no longer";
}

// Both are ready in one turn; whichever comes first removes the other, which then must not run.
TEST_F(EventLoopTest, ARemovedHandlerDoesNotRunAnyMore) {
  std::array<Pipe, 2> pipes;
  int runs = 0;
  for (std::size_t i = 0; i < 2; ++i) {
    pipes[i].write();
    ASSERT_TRUE(loop_->add(pipes[i].out.get(), [&, i] {
      ++runs;
      pipes[i].read();
      loop_->remove(pipes[1 - i].out.get());
      pipes[1 - i].out.reset();
    }));
  }
  int ticks = 0;
  loop_->add_tick(1, [&] {
    if (++ticks == 5) loop_->stop();
  });
  loop_->run();
  EXPECT_EQ(runs, 1);
}

TEST_F(EventLoopTest, ADescriptorsNumberMayComeAgain) {
  Pipe first;
  first.write();
  const int number = first.out.get();
  Pipe second;
  int runs = 0;
  ASSERT_TRUE(loop_->add(number, [&] {
    loop_->remove(number);
    first.out.reset();
    ASSERT_EQ(::dup2(second.out.get(), number), number);
    ASSERT_TRUE(loop_->add(number, [&] {
      ++runs;
      second.read();
      loop_->remove(number);
      ::close(number);
      loop_->stop();
    }));
    second.write();
  }));
  loop_->run();
  EXPECT_EQ(runs, 1);
}

TEST_F(EventLoopTest, StopsAtOnce) {
  std::array<Pipe, 2> pipes;
  int runs = 0;
  for (Pipe& pipe : pipes) {
    pipe.write();
    ASSERT_TRUE(loop_->add(pipe.out.get(), [&] {
      ++runs;
      loop_->stop();
    }));
  }
  loop_->run();
  EXPECT_EQ(runs, 1);
}

TEST_F(EventLoopTest, SeveralTicksEachOnItsOwn) {
  int often = 0;
  int seldom = 0;
  loop_->add_tick(1, [&] { ++often; });
  loop_->add_tick(7, [&] {
    if (++seldom == 3) loop_->stop();
  });
  loop_->run();
  EXPECT_EQ(seldom, 3);
  EXPECT_GE(often, 3);
}

// Nothing is due until a descriptor's handler says so; then it is, until it says otherwise.
TEST_F(EventLoopTest, ADeadlineIsAskedForBeforeEachWait) {
  Pipe pipe;
  pipe.write();
  std::int64_t at_ns = kNever_ns;
  int due = 0;
  ASSERT_TRUE(loop_->add(pipe.out.get(), [&] {
    pipe.read();
    EXPECT_EQ(due, 0);
    at_ns = monotonic_ns() + 2 * kNanosPerMilli;
  }));
  loop_->add_deadline([&] { return at_ns; },
                      [&] {
                        EXPECT_GE(monotonic_ns(), at_ns);
                        at_ns = ++due < 3 ? monotonic_ns() : kNever_ns;
                        if (due == 3) loop_->stop();
                      });
  loop_->run();
  EXPECT_EQ(due, 3);
}

TEST_F(EventLoopTest, TicksComeThoughADescriptorIsAlwaysReady) {
  Pipe pipe;
  pipe.write();
  ASSERT_TRUE(loop_->add(pipe.out.get(), [] {}));
  int ticks = 0;
  loop_->add_tick(1, [&] {
    if (++ticks == 3) loop_->stop();
  });
  loop_->run();
  EXPECT_EQ(ticks, 3);
}

TEST_F(EventLoopTest, ADescriptorHasOneHandler) {
  Pipe pipe;
  pipe.write();
  int first = 0;
  ASSERT_TRUE(loop_->add(pipe.out.get(), [&] {
    ++first;
    loop_->stop();
  }));
  const Status second = loop_->add(pipe.out.get(), [] { ADD_FAILURE(); });
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, EEXIST);
  loop_->run();
  EXPECT_EQ(first, 1) << "the first one stays";
}

TEST_F(EventLoopTest, ADescriptorIsWaitedForAsItIsAskedFor) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const OwnFd one(ends[0]);
  OwnFd other(ends[1]);
  ASSERT_EQ(::write(other.get(), "x", 1), 1);
  int runs = 0;
  ASSERT_TRUE(loop_->add(one.get(), [&] {
    switch (++runs) {
      case 1:  // readable
        loop_->wait_for(one.get(), {.readable = false, .writable = true});
        return;
      case 2:  // writable
        loop_->wait_for(one.get(), {.readable = false});
        other.reset();
        return;
      default:  // it has ended, which nobody asked for
        loop_->stop();
    }
  }));
  loop_->run();
  EXPECT_EQ(runs, 3);
}

TEST_F(EventLoopTest, WhatCannotBeWatchedIsSaid) {
  const Status closed = loop_->add(-1, [] {});
  ASSERT_FALSE(closed.has_value());
  EXPECT_EQ(closed.error().code, EBADF);
  loop_->remove(12345);  // never added: nothing to do
}

}  // namespace
}  // namespace tcpmux
