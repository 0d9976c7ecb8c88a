// The small parts that everything stands on: errors, CHECK, OwnFd, SlotPool, DeadlineQueue,
// clocks. (The mailbox has a file of its own.)
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/deadline_queue.h"
#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/base/slot_pool.h"

namespace tcpmux {
namespace {

TEST(Errors, NameTheCallAndTheReason) {
  const Error error = system_error("bind 127.0.0.1:80", EACCES);
  EXPECT_EQ(error.message, "bind 127.0.0.1:80: Permission denied");
  EXPECT_EQ(error.code, EACCES);
  errno = ENOENT;
  const Status status = fail_errno("open x");
  EXPECT_EQ(status.error().message, "open x: No such file or directory");
  EXPECT_EQ(status.error().code, ENOENT);
  EXPECT_EQ(Status(fail("no")).error().code, 0);
}

TEST(CheckDeath, SaysWhereAndWhyInEveryBuild) {
  const int answer = 41;
  EXPECT_DEATH(TCPMUX_CHECK(answer == 42, "the answer is known"),
               "base_test.cc:[0-9]+: the answer is known .failed: answer == 42");
  TCPMUX_CHECK(answer == 41, "not evaluated as a failure");
}

// ---- OwnFd

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

static_assert(!std::is_copy_constructible_v<OwnFd> && !std::is_copy_assignable_v<OwnFd>);
static_assert(!std::is_convertible_v<OwnFd, int> && !std::is_convertible_v<OwnFd, bool>);
static_assert(!std::is_convertible_v<int, OwnFd>);
static_assert(std::is_nothrow_move_constructible_v<OwnFd>);

TEST(OwnFd, ClosesAtItsEnd) {
  Pipe pipe;
  {
    const OwnFd owner(std::move(pipe.write_end));
    EXPECT_TRUE(owner.valid());
    EXPECT_FALSE(pipe.write_end_is_closed());
  }
  EXPECT_TRUE(pipe.write_end_is_closed());
  EXPECT_FALSE(OwnFd().valid());
}

TEST(OwnFd, MovingLeavesTheSourceEmpty) {
  Pipe pipe;
  const int number = pipe.write_end.get();
  OwnFd first(std::move(pipe.write_end));
  EXPECT_FALSE(pipe.write_end.valid());
  OwnFd second;
  second = std::move(first);
  EXPECT_FALSE(first.valid());
  EXPECT_EQ(second.get(), number);
  EXPECT_FALSE(pipe.write_end_is_closed());
}

TEST(OwnFd, AssigningClosesWhatWasHeld) {
  Pipe held;
  Pipe other;
  held.write_end = std::move(other.write_end);
  EXPECT_TRUE(held.write_end_is_closed());
  EXPECT_FALSE(other.write_end_is_closed());
  held.write_end.reset();
  EXPECT_TRUE(other.write_end_is_closed());
}

TEST(OwnFd, AssigningToItselfKeepsIt) {
  Pipe pipe;
  OwnFd& same = pipe.write_end;
  pipe.write_end = std::move(same);
  EXPECT_TRUE(pipe.write_end.valid());
  EXPECT_FALSE(pipe.write_end_is_closed());
}

TEST(OwnFd, ReleaseGivesItAway) {
  Pipe pipe;
  const int number = pipe.write_end.release();
  EXPECT_FALSE(pipe.write_end.valid());
  pipe.write_end.reset();
  EXPECT_FALSE(pipe.write_end_is_closed());
  EXPECT_EQ(::close(number), 0);
  EXPECT_TRUE(pipe.write_end_is_closed());
}

TEST(OwnFdDeath, ClosingWhatSomebodyElseClosedIsABug) {
  EXPECT_DEATH(
      {
        Pipe pipe;
        ::close(pipe.write_end.get());
        pipe.write_end.reset();
      },
      "not open");
}

// ---- SlotPool and DeadlineQueue

struct Slot {
  std::uint32_t generation = 0;
  std::uint32_t next_free = kNoSlot;
  DeadlineLink deadline;
  int value = 0;
};

TEST(SlotPool, GivesEachSlotOnceAndNoMore) {
  SlotPool<Slot> pool(3);
  EXPECT_EQ(pool.capacity(), 3u);
  std::vector<bool> seen(3, false);
  for (int i = 0; i < 3; ++i) {
    const std::uint32_t index = pool.take();
    ASSERT_LT(index, 3u);
    EXPECT_FALSE(seen[index]);
    EXPECT_TRUE(pool.taken(index));
    seen[index] = true;
  }
  EXPECT_EQ(pool.take(), kNoSlot);
  EXPECT_EQ(pool.free_count(), 0u);
  EXPECT_EQ(pool.taken_count(), 3u);
  pool.give_back(1);
  EXPECT_FALSE(pool.taken(1));
  EXPECT_EQ(pool.take(), 1u);
  EXPECT_EQ(SlotPool<Slot>(0).take(), kNoSlot);
}

TEST(SlotPool, AStaleNameFindsNothing) {
  SlotPool<Slot> pool(2);
  const std::uint32_t index = pool.take();
  const SlotName old{index, pool[index].generation};
  EXPECT_EQ(pool.find(old), &pool[index]);
  pool.give_back(index);
  EXPECT_EQ(pool.find(old), nullptr) << "free";
  ASSERT_EQ(pool.take(), index);
  EXPECT_EQ(pool.find(old), nullptr) << "taken again, by another";
  EXPECT_NE(pool.find({index, pool[index].generation}), nullptr);
  EXPECT_EQ(pool.find({}), nullptr);
  EXPECT_EQ(pool.find({7, 0}), nullptr);
}

TEST(SlotPool, GenerationsHave24Bits) {
  SlotPool<Slot> pool(1);
  const std::uint32_t index = pool.take();
  pool[index].generation = 0xFFFFFF;
  pool.give_back(index);
  EXPECT_EQ(pool[pool.take()].generation, 0u);
}

TEST(SlotPoolDeath, FreeingTwiceIsABug) {
  SlotPool<Slot> pool(2);
  const std::uint32_t index = pool.take();
  pool.give_back(index);
  EXPECT_DEATH(pool.give_back(index), "freed twice");
  EXPECT_DEATH(pool.give_back(1 - index), "freed twice");
  EXPECT_DEATH(pool.give_back(2), "freed twice");
}

TEST(SlotPool, KeepsCountUnderRandomUse) {
  SlotPool<Slot> pool(50);
  std::vector<std::uint32_t> taken;
  std::mt19937 random(11);
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 2 == 0) {
      const std::uint32_t index = pool.take();
      ASSERT_EQ(index == kNoSlot, taken.size() == 50);
      if (index != kNoSlot) taken.push_back(index);
    } else if (!taken.empty()) {
      std::swap(taken[random() % taken.size()], taken.back());
      pool.give_back(taken.back());
      taken.pop_back();
    }
    ASSERT_EQ(pool.taken_count(), taken.size());
  }
}

TEST(DeadlineQueue, ExpiresInOrderAndNotBefore) {
  SlotPool<Slot> pool(4);
  DeadlineQueue<Slot> queue(pool);
  EXPECT_EQ(queue.next_ns(), kNever_ns);
  EXPECT_EQ(queue.take_expired(kNever_ns), kNoSlot);
  queue.join(2, 102);
  queue.join(0, 103);
  queue.join(3, 103);
  EXPECT_EQ(queue.size(), 3u);
  EXPECT_EQ(queue.next_ns(), 102);
  EXPECT_EQ(queue.take_expired(101), kNoSlot);
  EXPECT_EQ(queue.take_expired(102), 2u) << "passed exactly at its time";
  EXPECT_FALSE(queue.holds(2));
  EXPECT_EQ(queue.take_expired(kNever_ns), 0u);
  EXPECT_EQ(queue.take_expired(kNever_ns), 3u) << "the same time, but joined later";
  EXPECT_EQ(queue.size(), 0u);
  EXPECT_EQ(queue.next_ns(), kNever_ns);
}

TEST(DeadlineQueue, OneThatBeganEarlierFindsItsPlace) {
  for (const std::int64_t at_ns : {5, 10, 15, 20, 25, 30, 35}) {
    SlotPool<Slot> pool(4);
    DeadlineQueue<Slot> queue(pool);
    for (std::uint32_t index = 0; index < 3; ++index)
      queue.join(index, 10 * (index + 1));
    queue.join(3, at_ns);
    EXPECT_EQ(queue.size(), 4u);
    std::int64_t last = 0;
    for (int i = 0; i < 4; ++i) {
      const std::int64_t next = queue.next_ns();
      EXPECT_LE(last, next);
      last = next;
      EXPECT_NE(queue.take_expired(next), kNoSlot);
    }
    EXPECT_EQ(queue.size(), 0u);
  }
}

TEST(DeadlineQueue, LeavingFromFrontMiddleAndBack) {
  for (const std::uint32_t leaver : {0u, 1u, 2u}) {
    SlotPool<Slot> pool(4);
    DeadlineQueue<Slot> queue(pool);
    for (std::uint32_t index = 0; index < 3; ++index)
      queue.join(index, index);
    queue.leave(leaver);
    EXPECT_FALSE(queue.holds(leaver));
    queue.join(3, 3);
    std::vector<std::uint32_t> left;
    for (std::uint32_t i = queue.first(); i != kNoSlot; i = queue.next(i))
      left.push_back(i);
    std::vector<std::uint32_t> expected;
    for (std::uint32_t i = 0; i < 4; ++i)
      if (i != leaver) expected.push_back(i);
    EXPECT_EQ(left, expected);
    EXPECT_EQ(queue.size(), 3u);
  }
}

TEST(DeadlineQueueDeath, ASlotWaitsInOneQueueOnly) {
  SlotPool<Slot> pool(2);
  DeadlineQueue<Slot> queue(pool);
  DeadlineQueue<Slot> other(pool);
  queue.join(0, 1);
  EXPECT_TRUE(queue.holds(0));
  EXPECT_FALSE(other.holds(0));
  EXPECT_DEATH(queue.join(0, 2), "one deadline queue only");
  EXPECT_DEATH(other.join(0, 2), "one deadline queue only");
  EXPECT_DEATH(other.leave(0), "not in");
  EXPECT_DEATH(queue.leave(1), "not in");
}

TEST(DeadlineQueue, AgreesWithAMapUnderRandomUse) {
  constexpr std::uint32_t kSlots = 40;
  SlotPool<Slot> pool(kSlots);
  DeadlineQueue<Slot> queue(pool);
  std::map<std::int64_t, std::uint32_t> model;  // deadline to slot
  std::vector<std::int64_t> deadline_of(kSlots, -1);
  std::mt19937 random(5);
  std::int64_t now = 0;
  for (int step = 0; step < 20'000; ++step, now += 8) {
    const auto index = static_cast<std::uint32_t>(random() % kSlots);
    // Now and then one that began earlier; the numbers are such that no two are equal.
    const std::int64_t at = now + 240 - (random() % 4 == 0 ? 100 : 0);
    if (deadline_of[index] < 0) {
      deadline_of[index] = at;
      model.emplace(at, index);
      queue.join(index, at);
    } else if (random() % 2 == 0) {
      model.erase(deadline_of[index]);
      deadline_of[index] = -1;
      queue.leave(index);
    }
    while (!model.empty() && model.begin()->first <= now) {
      ASSERT_EQ(queue.take_expired(now), model.begin()->second);
      deadline_of[model.begin()->second] = -1;
      model.erase(model.begin());
    }
    ASSERT_EQ(queue.take_expired(now), kNoSlot);
    ASSERT_EQ(queue.size(), model.size());
    ASSERT_EQ(queue.next_ns(), model.empty() ? kNever_ns : model.begin()->first);
  }
}

TEST(Clock, CountsNanoseconds) {
  const std::int64_t start = monotonic_ns();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::int64_t passed = monotonic_ns() - start;
  EXPECT_GE(passed, 20 * kNanosPerMilli);
  EXPECT_LT(passed, 20 * kNanosPerSecond);
  EXPECT_GT(realtime_ns(), 1'700'000'000 * kNanosPerSecond) << "after 2023";
}

}  // namespace
}  // namespace tcpmux
