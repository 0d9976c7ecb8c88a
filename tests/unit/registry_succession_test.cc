// The registry as the one that gives everything to a successor, and as that successor: two of them,
// each with its loop and its shards.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/registry_fixture.h"

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

Register serving(std::vector<std::string> names, std::uint16_t lanes = 1,
                 std::uint32_t window = 16) {
  return {.window = window, .batch = 1, .lanes = lanes, .names = std::move(names)};
}

OwnFd copy_of(int fd) {
  return OwnFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

void pause(RegistryWorld& world) {
  world.on_loop([&] { world.registry().pause(); });
}
bool at_rest(RegistryWorld& world) {
  bool rests = false;
  world.on_loop([&] { rests = world.registry().at_rest(); });
  return rests;
}
void resume(RegistryWorld& world) {
  world.on_loop([&] { world.registry().resume(); });
  world.pump();
}
// What one process tells the other.
struct Given {
  json state;
  std::vector<OwnFd> descriptors;
};
std::vector<Given> all_that_is_given(RegistryWorld& world) {
  std::vector<Given> all;
  world.on_loop([&] {
    world.registry().give([&](const json& state, std::span<const int> descriptors) {
      Given one{.state = json::parse(state.dump()), .descriptors = {}};
      for (const int fd : descriptors)
        one.descriptors.push_back(copy_of(fd));
      all.push_back(std::move(one));
    });
  });
  return all;
}
Status inherit(RegistryWorld& world, Given one) {
  Status taken;
  world.on_loop([&] { taken = world.registry().inherit(one.state, std::move(one.descriptors)); });
  return taken;
}

// A daemon that is about to be replaced, and what its successor has of it.
class Succession {
 public:
  explicit Succession(RegistryOptions options = roomy(), std::uint32_t shards = 1,
                      std::vector<Service> services = {{.name = "echo"}, {.name = "time"}})
      : old_(std::make_unique<RegistryWorld>(std::move(options), shards, std::move(services))),
        folder_(old_->folder()),
        path_(old_->path()) {}

  RegistryWorld& old_one() { return *old_; }
  RegistryWorld& new_one() { return *new_; }
  const std::string& path() const { return path_; }
  std::string text_of_lock() const {
    std::array<char, 64> text{};
    const OwnFd lock(::open((path_ + ".lock").c_str(), O_RDONLY | O_CLOEXEC));
    const ssize_t bytes = ::read(lock.get(), text.data(), text.size());
    return {text.data(), bytes > 0 ? static_cast<std::size_t>(bytes) : 0};
  }

  // The lanes come from the shards, as they do when those pause.
  std::vector<Given> give() {
    pause(*old_);
    EXPECT_TRUE(old_->wait_until([&] { return at_rest(*old_); }));
    old_->give_lanes_back();
    return all_that_is_given(*old_);
  }
  void make_new(RegistryOptions options = roomy(), std::uint32_t shards = 1,
                std::vector<Service> services = {{.name = "time"}, {.name = "echo"}}) {
    RegistrySocket socket = RegistrySocket::take_over(path_, copy_of(old_->registry().lock_fd()),
                                                      copy_of(old_->registry().socket_fd()));
    new_ = std::make_unique<RegistryWorld>(std::move(options), shards, std::move(services), 256,
                                           &socket);
  }
  void hand_over(std::vector<Given> all) {
    for (Given& one : all) {
      const Status taken = inherit(*new_, std::move(one));
      ASSERT_TRUE(taken.has_value()) << taken.error().message;
    }
    new_->pump();
  }
  // All at once; the old one has given up then.
  void succeed(RegistryOptions options = roomy(), std::uint32_t shards = 1) {
    std::vector<Given> all = give();
    make_new(std::move(options), shards);
    hand_over(std::move(all));
    old_->on_loop([&] { old_->registry().give_up(); });
  }
  void end_old() { old_.reset(); }

 private:
  std::unique_ptr<RegistryWorld> old_;
  std::shared_ptr<TestFolder> folder_;
  std::unique_ptr<RegistryWorld> new_;
  std::string path_;
};

TEST(RegistrySuccession, BackendsGoOnWithTheSameConnectionAndLanes) {
  Succession of;
  Peer peer(of.path());
  const Told welcome = of.old_one().ask(peer, serving({"ECHO", "time"}, 2, 8));
  EXPECT_EQ(expect_welcome(welcome).lanes, 2);
  ASSERT_EQ(of.old_one().news().lanes.size(), 2U);
  of.old_one().news().lanes[0]->sent(100, 1, 5);
  of.succeed();
  of.end_old();
  RegistryWorld& now = of.new_one();
  EXPECT_EQ(now.backend_count(), 1U);
  ASSERT_EQ(now.news().lanes.size(), 2U);
  EXPECT_EQ(now.news().order, "LLR") << "the routes when the lanes are there";
  std::size_t queued = 0;
  for (const auto& lane : now.news().lanes) {
    EXPECT_EQ(lane->setup.services, (std::vector<ServiceId>{1, 0})) << "ids of the new table";
    EXPECT_EQ(lane->setup.window, 8U);
    EXPECT_FALSE(lane->drained);
    queued += lane->queued();
  }
  EXPECT_EQ(queued, 1U);
  EXPECT_EQ(now.news().routes.at(0).backends, 1U);
  EXPECT_EQ(now.news().routes.at(1).shards, 1U);
  // The far ends that the backend has are those of these lanes.
  for (const auto& lane : now.news().lanes)
    ASSERT_EQ(send_now(lane->setup.ours.get(), encode_plain(MessageType::kProbe), {}), 0);
  for (const OwnFd& far_end : welcome.descriptors) {
    Bytes buffer(64);
    EXPECT_EQ(receive(far_end.get(), buffer, {}, MSG_DONTWAIT).bytes, kHeaderBytes);
  }
  const std::vector<BackendStatus> status = [&] {
    std::vector<BackendStatus> all;
    now.on_loop([&] { all = now.registry().backends(); });
    return all;
  }();
  ASSERT_EQ(status.size(), 1U);
  EXPECT_EQ(status[0].pid, ::getpid());
  EXPECT_EQ(status[0].names, (std::vector<std::string>{"echo", "time"}));
  EXPECT_EQ(status[0].lanes, 2U);
  EXPECT_EQ(status[0].window, 8U);
}

TEST(RegistrySuccession, TheNewOneHearsBackends) {
  Succession of;
  Peer drains(of.path());
  Peer leaves(of.path());
  Peer twice(of.path());
  for (Peer* peer : {&drains, &leaves, &twice})
    expect_welcome(of.old_one().ask(*peer, serving({"echo"})));
  of.succeed();
  RegistryWorld& now = of.new_one();
  drains.send(encode_plain(MessageType::kDrain));
  ASSERT_TRUE(now.wait_until([&] { return now.news().draining.size() == 1; }));
  leaves.leave();
  ASSERT_TRUE(now.wait_until([&] { return now.news().gone.size() == 1; }));
  expect_refused(now.ask(twice, serving({"echo"})), RefuseCode::kMalformed, "once");
  EXPECT_EQ(now.backend_count(), 1U);
  EXPECT_TRUE(now.hear(twice).ended) << "though the old one is there";
  EXPECT_EQ(of.old_one().backend_count(), 0U) << "it has given them up, and hears nothing more";
  of.end_old();
  drains.send(encode_plain(MessageType::kGoodbye));
  EXPECT_TRUE(now.hear(drains).ended);
}

// What happens while neither of them listens waits in the connections.
TEST(RegistrySuccession, WhatBackendsSayMeanwhileIsHeardByTheNewOne) {
  Succession of;
  Peer drains(of.path());
  Peer leaves(of.path());
  Peer silent(of.path());
  for (Peer* peer : {&drains, &leaves})
    expect_welcome(of.old_one().ask(*peer, serving({"echo"})));
  silent.send(encode_plain(MessageType::kProbe));
  std::vector<Given> all = of.give();
  drains.send(encode_plain(MessageType::kDrain));
  leaves.leave();
  silent.send(encode(serving({"time"})));
  Peer newcomer(of.path());
  newcomer.send(encode(serving({"time"})));
  of.make_new();
  of.hand_over(std::move(all));
  RegistryWorld& now = of.new_one();
  ASSERT_TRUE(now.wait_until(
      [&] { return now.news().draining.size() == 1 && now.news().gone.size() == 1; }));
  expect_welcome(now.hear(silent));
  expect_welcome(now.hear(newcomer));
  EXPECT_EQ(now.backend_count(), 3U);
}

TEST(RegistrySuccession, WhoDrainsAlreadyGetsNoMore) {
  Succession of;
  Peer drains(of.path());
  Peer serves(of.path());
  for (Peer* peer : {&drains, &serves})
    expect_welcome(of.old_one().ask(*peer, serving({"echo"})));
  drains.send(encode_plain(MessageType::kDrain));
  ASSERT_TRUE(of.old_one().wait_until([&] { return !of.old_one().news().draining.empty(); }));
  const std::uint64_t id = of.old_one().news().draining[0];
  of.succeed();
  RegistryWorld& now = of.new_one();
  EXPECT_EQ(now.news().routes.at(1).backends, 1U);
  ASSERT_EQ(now.news().lanes.size(), 2U);
  for (const auto& lane : now.news().lanes)
    EXPECT_EQ(lane->drained, lane->setup.backend == id);
  drains.leave();
  ASSERT_TRUE(now.wait_until([&] { return now.news().gone.size() == 1; }));
}

TEST(RegistrySuccession, IdsGoOn) {
  Succession of;
  Peer first(of.path());
  expect_welcome(of.old_one().ask(first, serving({"echo"})));
  {
    Peer second(of.path());
    expect_welcome(of.old_one().ask(second, serving({"echo"})));
  }
  ASSERT_TRUE(of.old_one().wait_until([&] { return !of.old_one().news().gone.empty(); }));
  const std::uint64_t gone = of.old_one().news().gone[0];
  of.succeed();
  RegistryWorld& now = of.new_one();
  Peer third(of.path());
  expect_welcome(now.ask(third, serving({"echo"})));
  EXPECT_GT(now.news().lanes.back()->setup.backend, gone) << "no id is given twice";
}

// Its end came to the shards, and its lane is not back, or comes when all is paused already.
TEST(RegistrySuccession, ALaneWhoseBackendHasEnded) {
  for (const bool in_the_old_one : {true, false}) {
    Succession of;
    {
      Peer peer(of.path());
      expect_welcome(of.old_one().ask(peer, serving({"echo"})));
    }
    ASSERT_TRUE(of.old_one().wait_until([&] { return of.old_one().news().gone.size() == 1; }));
    of.old_one().news().order.clear();
    if (in_the_old_one) {
      of.give();
      resume(of.old_one());
    } else {
      of.succeed();
    }
    RegistryWorld& world = in_the_old_one ? of.old_one() : of.new_one();
    world.pump();
    ASSERT_EQ(world.news().lanes.size(), 1U);
    EXPECT_TRUE(world.news().order.starts_with("LG"));
    EXPECT_TRUE(world.news().lanes[0]->drained) << "nobody is promised a place in it";
    EXPECT_EQ(world.news().gone.back(), world.news().lanes[0]->setup.backend);
  }
}

TEST(RegistrySuccession, ItIsAtRestWhenNothingIsOnItsWay) {
  RegistryWorld world(roomy());
  EXPECT_TRUE(at_rest(world));
  world.let_shard_know(0, false);
  Peer peer(world.path());
  peer.send(encode(serving({"echo"})));
  ASSERT_TRUE(world.wait_until([&] { return world.news().version == 1; }));
  pause(world);
  EXPECT_FALSE(at_rest(world)) << "the Welcome is due";
  world.let_shard_know(0, true);
  EXPECT_TRUE(world.wait_until([&] { return at_rest(world); }));
  expect_welcome(world.hear(peer));

  RegistryWorld slow(roomy(), 1, {{.name = "echo"}}, 1);
  Peer another(slow.path());
  expect_welcome(slow.ask(another, serving({"echo"})));
  another.leave();
  while (slow.backend_count() > 0)
    ::poll(nullptr, 0, 1);
  EXPECT_FALSE(at_rest(slow)) << "its end is two messages, and the mailbox has one place";
  EXPECT_TRUE(slow.wait_until([&] { return at_rest(slow); }));
  slow.pump();
  EXPECT_EQ(slow.news().gone.size(), 1U);
}

TEST(RegistrySuccession, WhoPausesAndGoesOnIsAsBefore) {
  RegistryWorld world(roomy(), 2);
  Peer peer(world.path());
  Peer ends(world.path());
  expect_welcome(world.ask(peer, serving({"echo"}, 0)));
  expect_welcome(world.ask(ends, serving({"time"}, 0)));
  const std::uint64_t ended = world.news(1).lanes.back()->setup.backend;
  pause(world);
  world.give_lanes_back();
  Peer newcomer(world.path());
  newcomer.send(encode(serving({"time"})));
  ends.leave();
  for (const std::size_t shard : {0U, 1U})
    world.news(shard).order.clear();
  world.pump();
  EXPECT_EQ(world.news(0).order, "") << "nobody is listened to";
  world.on_loop([&] { EXPECT_EQ(world.registry().lane_count(), 4U); });
  resume(world);
  expect_welcome(world.hear(newcomer));
  for (const std::size_t shard : {0U, 1U}) {
    EXPECT_EQ(world.news(shard).order.substr(0, 2), "LL");
    ASSERT_TRUE(world.wait_until([&] { return world.news(shard).gone.size() == 1; }));
    EXPECT_EQ(world.news(shard).gone[0], ended) << "and now it is heard";
    for (const auto& lane : world.news(shard).lanes)
      EXPECT_EQ(lane->shard, shard) << "each to the shard that it came from";
  }
  EXPECT_EQ(world.backend_count(), 2U);
  world.give_lanes_back();
  world.on_loop([&] { EXPECT_EQ(world.registry().lane_count(), 0U); });
}

TEST(RegistrySuccession, WhatIsTakenIsAccountedFor) {
  Succession of;
  RegistryOptions options = roomy();
  options.descriptors_max = 5;  // a connection and a lane; the next connection, and half a lane
  options.windows_max = 20;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"}, 1, 16)));
  of.succeed(options);
  RegistryWorld& now = of.new_one();
  now.on_loop([&] { EXPECT_EQ(now.registry().lane_count(), 1U); });
  {
    Peer more(of.path());
    expect_refused(now.ask(more, serving({"echo"})), RefuseCode::kNoRoom, "descriptors");
  }
  peer.leave();
  ASSERT_TRUE(now.wait_until([&] { return now.news().gone.size() == 1; }));
  now.give_lanes_back();
  now.on_loop([&] { EXPECT_EQ(now.registry().lane_count(), 0U); });
  Peer again(of.path());
  EXPECT_EQ(expect_welcome(now.ask(again, serving({"echo"}, 1, 100))).window, 20U)
      << "the whole of it is free";
}

TEST(RegistrySuccession, WindowsOfInheritedLanesCount) {
  Succession of;
  RegistryOptions options = roomy();
  options.windows_max = 20;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"}, 1, 16)));
  of.succeed(options);
  Peer more(of.path());
  EXPECT_EQ(expect_welcome(of.new_one().ask(more, serving({"echo"}, 1, 16))).window, 4U);
}

TEST(RegistrySuccession, LanesFindAShardWhereThereAreFewer) {
  Succession of(roomy(), 3);
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"}, 3)));
  of.succeed(roomy(), 2);
  RegistryWorld& now = of.new_one();
  EXPECT_EQ(now.news(0).lanes.size() + now.news(1).lanes.size(), 3U);
  for (std::uint32_t shard = 0; shard < 2; ++shard) {
    ASSERT_FALSE(now.news(shard).lanes.empty());
    for (const auto& lane : now.news(shard).lanes)
      EXPECT_EQ(lane->shard, shard);
    EXPECT_EQ(now.news(shard).routes.at(1).shards, 0b11U);
  }
}

TEST(RegistrySuccession, MoreLanesThanThereArePlacesIsAnError) {
  Succession of;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"}, 3)));
  std::vector<Given> all = of.give();
  RegistryOptions options = roomy();
  options.lanes_per_shard_max = 2;
  of.make_new(options);
  Status taken;
  for (Given& one : all)
    if (taken) taken = inherit(of.new_one(), std::move(one));
  EXPECT_FALSE(taken.has_value());
  EXPECT_EQ(of.new_one().news().order, "") << "nothing has begun";
}

// A name that the new configuration lacks; the shards have no place for it until they get one.
TEST(RegistrySuccession, NamesThatTheNewConfigurationLacks) {
  for (const bool open : {false, true}) {
    Succession of;
    Peer peer(of.path());
    expect_welcome(of.old_one().ask(peer, serving({"echo", "time"})));
    std::vector<Given> all = of.give();
    RegistryOptions options = roomy();
    options.open = open;
    options.services_max = 1;
    of.make_new(options, 1, {{.name = "time"}});
    of.hand_over(std::move(all));
    ShardNews& news = of.new_one().news();
    EXPECT_EQ(news.order, "MTLR") << "places, then the name, then what needs both";
    ASSERT_NE(news.table, nullptr);
    EXPECT_EQ(news.table->find("echo"), 1U);
    EXPECT_FALSE((*news.table)[1].configured);
    EXPECT_EQ((*news.table)[1].removed, !open) << "to clients it is unknown, or as registered";
    EXPECT_EQ(news.lanes.at(0)->setup.services, (std::vector<ServiceId>{1, 0}));
    EXPECT_EQ(news.routes.at(1).backends, 1U);
  }
}

TEST(RegistrySuccession, ThePathIsTheNewOnes) {
  Succession of;
  std::vector<Given> all = of.give();
  of.make_new();
  EXPECT_FALSE(RegistrySocket::open(of.path()).has_value()) << "nobody comes between";
  std::ofstream(of.path() + ".lock") << "1\n";  // the pid of the one before
  of.hand_over(std::move(all));
  EXPECT_EQ(of.text_of_lock(), std::to_string(::getpid()) + "\n");
  of.old_one().on_loop([&] {
    of.old_one().registry().give_up();
    of.old_one().registry().begin_shutdown();
    of.old_one().registry().say_goodbye();
  });
  of.end_old();
  Peer peer(of.path());
  expect_welcome(of.new_one().ask(peer, serving({"echo"})));
  EXPECT_FALSE(RegistrySocket::open(of.path()).has_value()) << "it is locked all the time";
}

TEST(RegistrySuccession, WhoHasGivenUpSaysNothingMore) {
  Succession of;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"})));
  of.succeed();
  of.old_one().on_loop([&] {
    of.old_one().registry().begin_shutdown();
    of.old_one().registry().say_goodbye();
  });
  of.end_old();
  EXPECT_TRUE(of.new_one().registry().path() == of.path());
  of.new_one().on_loop([&] { of.new_one().registry().begin_shutdown(); });
  EXPECT_EQ(of.new_one().hear(peer).type(), MessageType::kDrain) << "once, by the one that serves";
  Told told;
  EXPECT_FALSE(of.new_one().hears_now(peer, told));
}

// A successor that gives way before it has everything has changed nothing.
TEST(RegistrySuccession, ASuccessorThatFailsLeavesThePath) {
  Succession of;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"})));
  std::vector<Given> all = of.give();
  {
    RegistrySocket socket =
        RegistrySocket::take_over(of.path(), copy_of(of.old_one().registry().lock_fd()),
                                  copy_of(of.old_one().registry().socket_fd()));
    RegistryWorld failing(roomy(), 1, {{.name = "echo"}}, 256, &socket);
    all.pop_back();  // `end` never comes
    for (Given& one : all)
      ASSERT_TRUE(inherit(failing, std::move(one)).has_value());
  }
  resume(of.old_one());
  Peer later(of.path());
  expect_welcome(of.old_one().ask(later, serving({"echo"})));
  peer.send(encode_plain(MessageType::kGoodbye));
  EXPECT_TRUE(of.old_one().hear(peer).ended);
}

TEST(RegistrySuccession, WhatCannotBeUnderstoodIsAnError) {
  Succession of;
  Peer peer(of.path());
  expect_welcome(of.old_one().ask(peer, serving({"echo"})));
  const std::vector<Given> all = of.give();
  of.make_new();
  ASSERT_EQ(all.size(), 3U);
  const auto with = [&](std::size_t index, std::size_t descriptors) {
    Given one{.state = all[index].state, .descriptors = {}};
    for (std::size_t i = 0; i < descriptors; ++i)
      one.descriptors.push_back(copy_of(peer.fd()));
    return one;
  };
  EXPECT_FALSE(inherit(of.new_one(), with(0, 0)).has_value());
  EXPECT_FALSE(inherit(of.new_one(), with(0, 2)).has_value());
  EXPECT_FALSE(inherit(of.new_one(), with(1, 1)).has_value());
  EXPECT_FALSE(inherit(of.new_one(), with(2, 1)).has_value());
  Given unknown = with(2, 0);
  unknown.state["kind"] = "weather";
  EXPECT_FALSE(inherit(of.new_one(), std::move(unknown)).has_value());
  Given bad_name = with(0, 1);
  bad_name.state["services"] = {"two words"};
  EXPECT_FALSE(inherit(of.new_one(), std::move(bad_name)).has_value());
  Given bad_lane = with(1, 2);
  bad_lane.state["batch"] = 1000;
  EXPECT_FALSE(inherit(of.new_one(), std::move(bad_lane)).has_value());
  of.new_one().on_loop([&] {
    EXPECT_THROW(static_cast<void>(of.new_one().registry().inherit({{"kind", "end"}}, {})),
                 json::exception);
    EXPECT_THROW(static_cast<void>(of.new_one().registry().inherit({{"no", "kind"}}, {})),
                 json::exception);
  });
  EXPECT_EQ(of.new_one().backend_count(), 0U);
  EXPECT_EQ(of.new_one().news().order, "");
}

}  // namespace
}  // namespace tcpmux::handoff
