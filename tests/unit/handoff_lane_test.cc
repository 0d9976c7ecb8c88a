// A lane's bookkeeping: what waits in it, what can still be promised, and since when it stands
// still; by example, and against a model that counts in the plainest way.
#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <numeric>
#include <random>

#include "core/base/clock.h"
#include "handoff/lane.h"

namespace tcpmux::handoff {
namespace {

Lane make_lane(std::uint32_t window) {
  Lane::Setup setup;
  setup.services = {3, 5};
  setup.window = window;
  return Lane(std::move(setup));
}

TEST(Lane, BeginsEmptyWithAllItsWindow) {
  const Lane lane = make_lane(7);
  EXPECT_EQ(lane.room(), 7U);
  EXPECT_EQ(lane.queued(), 0U);
  EXPECT_TRUE(lane.queue_is_empty());
  EXPECT_EQ(lane.still_for_ns(1'000), 0);
  EXPECT_EQ(lane.next_for.size(), 2U) << "a place for each service";
}

TEST(Lane, RoomIsWhatIsNeitherPromisedNorCollectedNorQueued) {
  Lane lane = make_lane(10);
  lane.reserved = 2;
  EXPECT_EQ(lane.room(), 8U);
  lane.collected = 3;
  EXPECT_EQ(lane.room(), 5U);
  lane.sent(100, 4, 1);
  EXPECT_EQ(lane.room(), 1U);
  lane.reserved = 3;
  EXPECT_EQ(lane.room(), 0U);
  lane.reserved = 9;  // more than fits is no room, and not a great deal of it
  EXPECT_EQ(lane.room(), 0U);
}

TEST(Lane, AStalledLaneHasNoRoom) {
  Lane lane = make_lane(10);
  lane.stalled = true;
  EXPECT_EQ(lane.room(), 0U);
  lane.stalled = false;
  EXPECT_EQ(lane.room(), 10U);
}

TEST(Lane, OnProbationOneSocketAtATime) {
  Lane lane = make_lane(10);
  lane.on_probation = true;
  EXPECT_EQ(lane.room(), 1U);
  lane.reserved = 1;
  EXPECT_EQ(lane.room(), 0U);
  lane.reserved = 0;
  lane.sent(1, 1, 1);
  EXPECT_EQ(lane.room(), 0U);
  EXPECT_TRUE(lane.settle(0, 2));
  EXPECT_EQ(lane.room(), 1U);
}

// A message leaves the queue whole: bytes that wait name the messages at the end.
TEST(Lane, SettlesByExactBytes) {
  Lane lane = make_lane(16);
  lane.sent(100, 1, 10);
  lane.sent(250, 3, 11);
  lane.sent(90, 1, 12);
  EXPECT_FALSE(lane.settle(440, 20)) << "all of it waits";
  EXPECT_EQ(lane.queued(), 5U);
  EXPECT_TRUE(lane.settle(340, 21)) << "the first was received";
  EXPECT_EQ(lane.queued(), 4U);
  EXPECT_TRUE(lane.settle(90, 22));
  EXPECT_EQ(lane.queued(), 1U);
  EXPECT_TRUE(lane.settle(0, 23));
  EXPECT_EQ(lane.queued(), 0U);
  EXPECT_TRUE(lane.queue_is_empty());
  EXPECT_FALSE(lane.settle(0, 24));
  EXPECT_EQ(lane.settled_at_ns(), 24);
}

// A message whose completion we have not seen is in the queue, but not in the count.
TEST(Lane, MoreMayWaitThanIsCounted) {
  Lane lane = make_lane(16);
  lane.sent(100, 1, 10);
  EXPECT_FALSE(lane.settle(300, 20));
  EXPECT_EQ(lane.queued(), 1U);
  lane.sent(200, 2, 21);
  EXPECT_TRUE(lane.settle(200, 22));
  EXPECT_EQ(lane.queued(), 2U);
}

TEST(Lane, StandsStillSinceItLastMoved) {
  Lane lane = make_lane(16);
  lane.sent(100, 1, 1'000);
  lane.sent(100, 1, 2'000);
  EXPECT_EQ(lane.still_for_ns(5'000), 4'000) << "more of it is no movement";
  lane.settle(200, 6'000);
  EXPECT_EQ(lane.still_for_ns(7'000), 6'000) << "nor is a look at it";
  lane.settle(100, 8'000);
  EXPECT_EQ(lane.still_for_ns(9'500), 1'500);
  lane.settle(0, 10'000);
  EXPECT_EQ(lane.still_for_ns(99'000), 0) << "an empty one does not stand still";
  lane.sent(100, 1, 100'000);
  EXPECT_EQ(lane.still_for_ns(100'500), 500);
}

TEST(Lane, EmptiedByUsIsEmpty) {
  Lane lane = make_lane(4);
  for (int i = 0; i < 4; ++i)
    lane.sent(10, 1, i);
  lane.emptied();
  EXPECT_EQ(lane.queued(), 0U);
  EXPECT_EQ(lane.room(), 4U);
  EXPECT_TRUE(lane.queue_is_empty());
  EXPECT_FALSE(lane.settle(0, 9));
  lane.sent(10, 1, 10);
  EXPECT_FALSE(lane.settle(10, 11));
  EXPECT_EQ(lane.queued(), 1U) << "nothing of before is counted";
}

TEST(Lane, HoldsAWindowOfMessagesAndOneProbe) {
  Lane lane = make_lane(3);
  lane.sent(8, 0, 1);
  for (int i = 0; i < 3; ++i)
    lane.sent(10, 1, 2);
  EXPECT_EQ(lane.queued(), 3U);
  EXPECT_DEATH(lane.sent(10, 1, 3), "no more messages than the window has places");
}

TEST(Lane, GoesRoundItsRing) {
  Lane lane = make_lane(3);
  std::uint32_t waiting = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    lane.sent(10 + i, 1, i);
    waiting += 10 + i;
    if (i < 2) continue;
    waiting -= 10 + i - 2;
    EXPECT_TRUE(lane.settle(waiting, i)) << i;
    EXPECT_EQ(lane.queued(), 2U) << i;
  }
}

// The same in the plainest way: a list of what was sent.
struct Model {
  struct Message {
    std::uint32_t bytes;
    std::uint32_t sockets;
  };
  std::uint32_t window;
  std::deque<Message> messages;
  std::int64_t moved_at_ns = 0;

  std::uint32_t bytes() const {
    return std::accumulate(messages.begin(), messages.end(), 0U,
                           [](std::uint32_t sum, const Message& m) { return sum + m.bytes; });
  }
  std::uint32_t sockets() const {
    return std::accumulate(messages.begin(), messages.end(), 0U,
                           [](std::uint32_t sum, const Message& m) { return sum + m.sockets; });
  }
  std::uint32_t room(const Lane& lane) const {
    if (lane.stalled) return 0;
    const std::int64_t limit = lane.on_probation ? 1 : window;
    const std::int64_t left = limit - std::int64_t{sockets()} - std::int64_t{lane.reserved} -
                              std::int64_t{lane.collected};
    return left < 0 ? 0 : static_cast<std::uint32_t>(left);
  }
};

class LaneRun {
 public:
  LaneRun(std::uint32_t seed, std::uint32_t window)
      : random_(seed), lane_(make_lane(window)), model_{.window = window, .messages = {}} {}

  void step() {
    now_ns_ += below(1000);
    switch (below(8)) {
      case 0:
      case 1:
      case 2:
        send();
        break;
      case 3:
      case 4:
        receive();
        break;
      case 5:
        lane_.reserved = below(4);
        lane_.collected = below(4);
        break;
      case 6:
        lane_.stalled = below(4) == 0;
        lane_.on_probation = below(4) == 0;
        break;
      default:
        if (below(10) != 0) break;
        lane_.emptied();
        model_.messages.clear();
    }
    ASSERT_EQ(lane_.queued(), model_.sockets());
    ASSERT_EQ(lane_.queue_is_empty(), model_.messages.empty());
    ASSERT_EQ(lane_.room(), model_.room(lane_));
    ASSERT_EQ(lane_.still_for_ns(now_ns_),
              model_.messages.empty() ? 0 : now_ns_ - model_.moved_at_ns);
  }

 private:
  std::uint32_t below(std::uint32_t bound) {
    return std::uniform_int_distribution<std::uint32_t>(0, bound - 1)(random_);
  }
  void send() {
    if (model_.messages.size() == model_.window + 1) return;
    const Model::Message message{.bytes = 1 + below(400), .sockets = below(5)};
    if (model_.messages.empty()) model_.moved_at_ns = now_ns_;
    model_.messages.push_back(message);
    lane_.sent(message.bytes, message.sockets, now_ns_);
  }
  // The backend receives some, none, or all; sometimes more waits than the lane has counted.
  void receive() {
    const std::uint32_t count = below(static_cast<std::uint32_t>(model_.messages.size()) + 1);
    for (std::uint32_t i = 0; i < count; ++i)
      model_.messages.pop_front();
    if (count > 0) model_.moved_at_ns = now_ns_;
    const std::uint32_t unseen = count == 0 && below(4) == 0 ? below(100) : 0;
    ASSERT_EQ(lane_.settle(model_.bytes() + unseen, now_ns_), count > 0);
    ASSERT_EQ(lane_.settled_at_ns(), now_ns_);
  }

  std::mt19937 random_;
  Lane lane_;
  Model model_;
  std::int64_t now_ns_ = 1;
};

TEST(Lane, IsLikeItsModel) {
  for (std::uint32_t seed = 1; seed <= 200 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    LaneRun run(seed, 1 + seed % 9);
    for (int i = 0; i < 1000 && !testing::Test::HasFailure(); ++i)
      run.step();
  }
}

}  // namespace
}  // namespace tcpmux::handoff
