// The registry: who is welcome, what each is given, what the shards are told of it, and that all of
// it comes back.
#include "handoff/registry.h"

#include <gtest/gtest.h>

#include <bit>

#include "tests/unit/registry_fixture.h"

namespace tcpmux::handoff {
namespace {

Register echo_with(std::uint16_t lanes, std::uint32_t window = 16) {
  return {.window = window, .batch = 1, .lanes = lanes, .names = {"echo"}};
}

TEST(Registry, WelcomesWithLanesThatTheShardWritesInto) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  const Told told =
      world.ask(peer, {.window = 16, .batch = 4, .lanes = 2, .names = {"Echo", "time", "ECHO"}});
  const Welcome welcome = expect_welcome(told);
  EXPECT_EQ(welcome.window, 16U);
  EXPECT_EQ(welcome.batch, 4U);
  ASSERT_EQ(world.news().lanes.size(), 2U);
  EXPECT_EQ(world.news().order, "LLR") << "the lanes come before the routes that name them";
  for (std::size_t i = 0; i < 2; ++i) {
    const Lane& lane = *world.news().lanes[i];
    EXPECT_EQ(lane.setup.services, (std::vector<ServiceId>{0, 1})) << "each name once";
    EXPECT_EQ(lane.setup.window, 16U);
    EXPECT_EQ(lane.setup.batch, 4U);
    EXPECT_EQ(lane.setup.kind, LaneKind::kMessages);
    ASSERT_EQ(send_now(lane.setup.ours.get(), encode_plain(MessageType::kProbe), {}), 0);
    Bytes buffer(64);
    EXPECT_EQ(receive(told.descriptors[i].get(), buffer, {}, 0).bytes, kHeaderBytes);
  }
  const RoutesCommand::Entry& route = world.news().routes.at(1);
  EXPECT_EQ(route.shards, 1U);
  EXPECT_EQ(route.backends, 1U);
  EXPECT_EQ(world.backend_count(), 1U);
}

TEST(Registry, WelcomesWhenEveryShardKnows) {
  RegistryWorld world(roomy(), 2);
  world.let_shard_know(0, false);
  world.let_shard_know(1, false);
  Peer peer(world.path());
  peer.send(encode(echo_with(0)));
  Told told;
  for (const std::size_t next : {0U, 1U}) {
    ASSERT_TRUE(world.wait_until([&] { return world.news(next).version == 1; }));
    world.notice(1, LaneNotice::kRoutes, 0);  // the registry looks at who knows
    EXPECT_FALSE(world.hears_now(peer, told));
    world.let_shard_know(next, true);
    world.pump();
  }
  EXPECT_EQ(expect_welcome(world.hear(peer)).lanes, 2);
}

TEST(Registry, WhoLeavesBeforeTheWelcomeIsGone) {
  RegistryWorld world(roomy());
  world.let_shard_know(0, false);
  Peer peer(world.path());
  peer.send(encode(echo_with(1)));
  ASSERT_TRUE(world.wait_until([&] { return world.news().lanes.size() == 1; }));
  peer.leave();
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  world.let_shard_know(0, true);
  world.pump();
  EXPECT_EQ(world.backend_count(), 0U);
}

TEST(Registry, ALaneForEachShardUnlessAskedOtherwise) {
  RegistryWorld world(roomy(), 3);
  Peer all(world.path());
  EXPECT_EQ(expect_welcome(world.ask(all, echo_with(0))).lanes, 3);
  for (std::size_t shard = 0; shard < 3; ++shard) {
    EXPECT_EQ(world.news(shard).lanes.size(), 1U);
    EXPECT_EQ(world.news(shard).lanes.at(0)->shard, shard);
    EXPECT_EQ(world.news(shard).routes.at(0).shards, 0b111U);
  }
  Peer many(world.path());
  EXPECT_EQ(expect_welcome(world.ask(many, echo_with(5))).lanes, 5);
  std::size_t lanes = 0;
  for (std::size_t shard = 0; shard < 3; ++shard) {
    const std::size_t more = world.news(shard).lanes.size() - 1;
    EXPECT_TRUE(more == 1 || more == 2);
    lanes += more;
    EXPECT_EQ(world.news(shard).routes.at(0).backends, 2U);
  }
  EXPECT_EQ(lanes, 5U);
}

TEST(Registry, RoutesNameTheShardsThatHaveLanes) {
  RegistryWorld world(roomy(), 4);
  std::vector<std::unique_ptr<Peer>> peers;
  std::uint64_t all = 0;
  for (int i = 0; i < 4; ++i) {
    peers.push_back(std::make_unique<Peer>(world.path()));
    expect_welcome(world.ask(*peers.back(), echo_with(1)));
    std::uint64_t has = 0;
    for (std::uint32_t shard = 0; shard < 4; ++shard)
      has |= world.news(shard).lanes.empty() ? 0 : std::uint64_t{1} << shard;
    EXPECT_NE(has, all) << "each begins with another shard";
    all = has;
    for (std::size_t shard = 0; shard < 4; ++shard)
      EXPECT_EQ(world.news(shard).routes.at(0).shards, has);
  }
  peers[0]->leave();
  ASSERT_TRUE(world.wait_until([&] { return world.news(3).gone.size() == 1; }));
  EXPECT_EQ(world.news(3).routes.at(0).backends, 3U);
  EXPECT_EQ(std::popcount(world.news(3).routes.at(0).shards), 3);
}

struct Refusable {
  Bytes message;
  RefuseCode code;
  std::string why;
};

TEST(Registry, RefusesAndSaysWhy) {
  RegistryWorld world(roomy());
  Bytes other_version = encode(echo_with(1));
  other_version[4] = std::byte{2};
  Bytes no_magic = encode(echo_with(1));
  no_magic[0] = std::byte{'t'};
  Bytes short_one = encode(echo_with(1));
  short_one.resize(short_one.size() - 1);
  const std::vector<Refusable> all = {
      {no_magic, RefuseCode::kMalformed, "magic"},
      {Bytes(3), RefuseCode::kMalformed, "magic"},
      {short_one, RefuseCode::kMalformed, "malformed Register"},
      {other_version, RefuseCode::kVersion, "version 2"},
      {encode(Register{.names = {"no body"}}), RefuseCode::kBadName, "no space"},
      {encode(Register{.names = {"help"}}), RefuseCode::kBadName, "reserved"},
      {encode(Register{.names = {"echo", "nobody"}}), RefuseCode::kUnknownService, "nobody"},
  };
  for (const Refusable& each : all) {
    Peer peer(world.path());
    peer.send(each.message);
    expect_refused(world.hear(peer), each.code, each.why);
    EXPECT_TRUE(world.hear(peer).ended);
  }
  EXPECT_EQ(world.backend_count(), 0U);
  EXPECT_EQ(world.news().order, "") << "no shard has heard of any of it";
}

// Who has registered may be silent for as long as they like.
TEST(Registry, SilenceIsRefused) {
  RegistryOptions options = roomy();
  options.register_within_ns = 100 * kNanosPerMilli;
  RegistryWorld world(options);
  Peer speaks(world.path());
  expect_welcome(world.ask(speaks, echo_with(1)));
  Peer silent(world.path());
  const std::int64_t before_ns = monotonic_ns();
  const Told told = world.hear(silent);
  ASSERT_FALSE(told.ended);
  EXPECT_GE(monotonic_ns(), before_ns + options.register_within_ns);
  EXPECT_EQ(told.type(), MessageType::kRefuse);
  EXPECT_NE(decode_refuse(told.message)->reason.find("no Register came"), std::string::npos);
  EXPECT_TRUE(world.hear(silent).ended);
  EXPECT_EQ(world.backend_count(), 1U);
}

TEST(Registry, RegistersOnce) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  Peer other(world.path());
  expect_welcome(world.ask(peer, echo_with(1)));
  expect_welcome(world.ask(other, echo_with(1)));
  expect_refused(world.ask(peer, echo_with(1)), RefuseCode::kMalformed, "once");
  EXPECT_TRUE(world.hear(peer).ended);
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  EXPECT_EQ(world.backend_count(), 1U) << "and no other";
}

TEST(Registry, IgnoresWhatItDoesNotKnow) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  for (const int type : {0, 2, 3, 4, 7, 8, 99, 255}) {
    Bytes message = encode_plain(MessageType::kProbe, "whatever is in it");
    message[5] = static_cast<std::byte>(type);
    peer.send(message, std::span(&pipe[1], 1));
  }
  ::close(pipe[1]);
  expect_welcome(world.ask(peer, echo_with(1)));
  char byte = 0;
  EXPECT_EQ(::read(pipe[0], &byte, 1), 0) << "the descriptors that came with it are closed";
  ::close(pipe[0]);
}

void forget(ShardNews& news) {
  news.order.clear();
  news.lanes.clear();
  news.gone.clear();
}

TEST(Registry, AnEndOfAnyKindIsTheEndOfTheBackend) {
  RegistryWorld world(roomy(), 2);
  for (const bool says_goodbye : {true, false}) {
    for (ShardNews* news : {&world.news(0), &world.news(1)})
      forget(*news);
    Peer peer(world.path());
    expect_welcome(world.ask(peer, echo_with(1)));
    if (says_goodbye) {
      peer.send(encode_plain(MessageType::kGoodbye, "done for today"));
      EXPECT_TRUE(world.hear(peer).ended);
    } else {
      peer.leave();
    }
    for (const std::size_t shard : {0U, 1U}) {
      ASSERT_TRUE(world.wait_until([&] { return world.news(shard).gone.size() == 1; }));
      EXPECT_TRUE(world.news(shard).order.ends_with("RG"))
          << "the routes first, so that what comes back has somewhere to go";
      EXPECT_EQ(world.news(shard).routes.at(0).backends, 0U);
      EXPECT_EQ(world.news(shard).routes.at(0).shards, 0U);
    }
  }
}

TEST(Registry, ADrainEndsTheRoutesAndNotTheBackend) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  expect_welcome(world.ask(peer, echo_with(1)));
  peer.send(encode_plain(MessageType::kDrain));
  peer.send(encode_plain(MessageType::kDrain));
  ASSERT_TRUE(world.wait_until([&] { return world.news().draining.size() == 1; }));
  EXPECT_EQ(world.news().routes.at(0).backends, 0U);
  EXPECT_EQ(world.backend_count(), 1U);
  peer.send(encode_plain(MessageType::kGoodbye));
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  EXPECT_EQ(world.news().order, "LRRDRG") << "drained once";
}

TEST(Registry, ADrainBeforeRegisteringIsNothing) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  peer.send(encode_plain(MessageType::kDrain));
  expect_welcome(world.ask(peer, echo_with(1)));
  EXPECT_EQ(world.news().routes.at(0).backends, 1U);
}

TEST(Registry, ABrokenLaneEndsItsBackend) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  Peer other(world.path());
  expect_welcome(world.ask(peer, echo_with(1)));
  expect_welcome(world.ask(other, echo_with(1)));
  const std::uint64_t id = world.news().lanes.at(0)->setup.backend;
  for (const LaneNotice harmless :
       {LaneNotice::kStalled, LaneNotice::kResumed, LaneNotice::kTakenBack})
    world.notice(id, harmless, 3);
  EXPECT_EQ(world.backend_count(), 2U);
  world.notice(id, LaneNotice::kBroken, EPIPE);
  EXPECT_TRUE(world.hear(peer).ended);
  world.notice(id, LaneNotice::kBroken, EPIPE);  // of another of its lanes
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  EXPECT_EQ(world.news().gone.at(0), id);
  EXPECT_EQ(world.backend_count(), 1U);
}

TEST(Registry, RawLanesAreOfTheKindThatWasAskedFor) {
  RegistryWorld world(roomy());
  for (const auto& [kind, type] : {std::pair(LaneKind::kRawSeqpacket, SOCK_SEQPACKET),
                                   std::pair(LaneKind::kRawStream, SOCK_STREAM)}) {
    Peer peer(world.path());
    const Told told = world.ask(peer, {.lanes = 1, .lane_kind = kind, .names = {"echo"}});
    EXPECT_EQ(expect_welcome(told).batch, 1U);
    int has = 0;
    socklen_t size = sizeof has;
    ASSERT_EQ(::getsockopt(told.descriptors.at(0).get(), SOL_SOCKET, SO_TYPE, &has, &size), 0);
    EXPECT_EQ(has, type);
    EXPECT_EQ(world.news().lanes.back()->setup.kind, kind);
  }
}

TEST(Registry, TheShutdownIsAnnounced) {
  RegistryWorld world(roomy());
  Peer peer(world.path());
  Peer silent(world.path());
  expect_welcome(world.ask(peer, echo_with(1)));
  ASSERT_TRUE(world.wait_until([&] { return world.backend_count() == 1; }));
  world.on_loop([&] { world.registry().begin_shutdown(); });
  EXPECT_EQ(world.hear(peer).type(), MessageType::kDrain);
  EXPECT_EQ(world.hear(silent).type(), MessageType::kDrain);
  expect_refused(world.ask(silent, echo_with(1)), RefuseCode::kShuttingDown, "try again later");
  Peer late(world.path());
  expect_refused(world.hear(late), RefuseCode::kShuttingDown, "try again later");
  world.on_loop([&] { world.registry().say_goodbye(); });
  EXPECT_EQ(world.hear(peer).type(), MessageType::kGoodbye);
}

}  // namespace
}  // namespace tcpmux::handoff
