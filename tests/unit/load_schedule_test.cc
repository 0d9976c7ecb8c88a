// When connections begin: closed loop, open loop, and the kinds in turn.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "tools/load/kinds.h"
#include "tools/load/schedule.h"

namespace load {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(LoadSchedule, TheClosedLoopKeepsSoManyAtOnce) {
  Schedule schedule({.at_once = 2, .until_ns = 100});
  EXPECT_EQ(schedule.take(10, 0)->start_ns, 10);
  EXPECT_EQ(schedule.take(11, 1)->start_ns, 11);
  EXPECT_FALSE(schedule.take(12, 2));
  EXPECT_EQ(schedule.next_ns(2), INT64_MAX) << "only an end makes room";
  EXPECT_TRUE(schedule.take(13, 1));
  EXPECT_EQ(schedule.begun(), 3u);
}

TEST(LoadSchedule, TheClosedLoopEndsByTimeOrCount) {
  Schedule timed({.at_once = 1, .until_ns = 100});
  EXPECT_FALSE(timed.over(99));
  EXPECT_TRUE(timed.over(100));
  EXPECT_FALSE(timed.take(100, 0));
  Schedule counted({.at_once = 9, .count = 2});
  EXPECT_TRUE(counted.take(0, 0));
  EXPECT_FALSE(counted.over(0));
  EXPECT_TRUE(counted.take(0, 1));
  EXPECT_TRUE(counted.over(0));
  EXPECT_FALSE(counted.take(0, 2));
}

TEST(LoadSchedule, TheOpenLoopIsConstantAndExactForLong) {
  constexpr std::int64_t kBegin = 77;
  Schedule schedule({.per_second = 3, .at_once = 1, .begin_ns = kBegin});
  for (std::int64_t i = 0; i < 3000; ++i) {
    const std::int64_t due = schedule.next_ns(0);
    EXPECT_FALSE(schedule.take(due - 1, 0));
    const auto start = schedule.take(due, 0);
    ASSERT_TRUE(start);
    EXPECT_EQ(start->start_ns, due);
    if (i % 3 == 0) {
      EXPECT_EQ(due, kBegin + i / 3 * kSecond);
    }
  }
}

// The point of an open loop: a server that stands still does not stop the clock.
TEST(LoadSchedule, WhoBeginsLateKeepsTheIntendedStart) {
  Schedule schedule({.per_second = 10, .at_once = 1, .until_ns = kSecond});
  std::vector<std::int64_t> starts;
  while (const auto start = schedule.take(5 * kSecond, 0)) {
    EXPECT_FALSE(start->expired);
    starts.push_back(start->start_ns);
  }
  ASSERT_EQ(starts.size(), 10u) << "all that were due before the end begin";
  for (std::size_t i = 0; i < starts.size(); ++i)
    EXPECT_EQ(starts[i], static_cast<std::int64_t>(i) * kSecond / 10);
  EXPECT_TRUE(schedule.over(5 * kSecond));
}

TEST(LoadSchedule, TheOpenLoopWaitsForRoomUntilPatienceEnds) {
  Schedule schedule(
      {.per_second = 1, .at_once = 1, .until_ns = 10 * kSecond, .patience_ns = 5 * kSecond});
  EXPECT_TRUE(schedule.take(0, 0));
  EXPECT_FALSE(schedule.take(6 * kSecond, 1)) << "due since five seconds, and no room";
  EXPECT_EQ(schedule.next_ns(1), 6 * kSecond + 1);
  const auto late = schedule.take(6 * kSecond + 1, 1);
  ASSERT_TRUE(late);
  EXPECT_TRUE(late->expired);
  EXPECT_EQ(late->start_ns, kSecond);
  EXPECT_FALSE(schedule.take(6 * kSecond + 1, 1)) << "the next one's patience has not ended";
}

TEST(LoadSchedule, ThreadsTakeTheStartsInTurn) {
  std::vector<std::int64_t> starts;
  for (std::uint32_t thread = 0; thread < 4; ++thread) {
    Schedule schedule({.per_second = 8, .until_ns = kSecond, .thread = thread, .threads = 4});
    while (const auto start = schedule.take(kSecond, 0))
      starts.push_back(start->start_ns);
  }
  std::ranges::sort(starts);
  ASSERT_EQ(starts.size(), 8u);
  for (std::size_t i = 0; i < starts.size(); ++i)
    EXPECT_EQ(starts[i], static_cast<std::int64_t>(i) * kSecond / 8);
}

TEST(LoadSchedule, StoppedMeansOver) {
  Schedule schedule({.per_second = 1000, .at_once = 1});
  EXPECT_TRUE(schedule.take(0, 0));
  schedule.stop();
  EXPECT_TRUE(schedule.over(0));
  EXPECT_FALSE(schedule.take(kSecond, 0));
  EXPECT_EQ(schedule.next_ns(0), INT64_MAX);
}

TEST(LoadKinds, AMixIsEvenlyInterleaved) {
  KindMix mix = KindMix::parse("handshake=7,unknown=2,help").value();
  std::array<int, kKindCount> seen{};
  for (int i = 1; i <= 1000; ++i) {
    ++seen[static_cast<std::size_t>(mix.next())];
    EXPECT_NEAR(seen[0], i * 0.7, 1);
    EXPECT_NEAR(seen[static_cast<std::size_t>(Kind::kUnknown)], i * 0.2, 1);
    EXPECT_NEAR(seen[static_cast<std::size_t>(Kind::kHelp)], i * 0.1, 1);
  }
}

TEST(LoadKinds, EveryNameIsUnderstood) {
  for (std::size_t i = 0; i < kKindCount; ++i) {
    const auto kind = static_cast<Kind>(i);
    auto mix = KindMix::parse(kKindNames[i]);
    ASSERT_TRUE(mix.has_value()) << kKindNames[i];
    EXPECT_TRUE(mix->has_only(kind));
    EXPECT_EQ(mix->next(), kind);
    EXPECT_EQ(mix->text(), kKindNames[i]);
  }
  EXPECT_EQ(KindMix::parse("help=2,session=5").value().text(), "session=5,help=2");
}

TEST(LoadKinds, WhatIsNoMixIsExplained) {
  const auto complaint = [](const char* text) {
    const auto mix = KindMix::parse(text);
    return mix ? std::string("none") : mix.error().message;
  };
  EXPECT_EQ(complaint("sesion"),
            "'sesion' is no kind; there are handshake, session, early, unknown, help, trickle, "
            "half, silent");
  EXPECT_EQ(complaint("half=0"), "weight '0' is not a whole number from 1 to 1000000");
  EXPECT_EQ(complaint("half=x"), "weight 'x' is not a whole number from 1 to 1000000");
  EXPECT_EQ(complaint("half="), "weight '' is not a whole number from 1 to 1000000");
  EXPECT_EQ(complaint("half,half"), "'half' is given twice");
  EXPECT_EQ(complaint("half,").substr(0, 14), "'' is no kind;");
  EXPECT_EQ(complaint("").substr(0, 14), "'' is no kind;");
}

}  // namespace
}  // namespace load
