// The registry's bounds: descriptors, windows, places and names, each given and given back; and who
// may register at all.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <filesystem>

#include "tests/unit/registry_fixture.h"

namespace tcpmux::handoff {
namespace {

Register echo_with(std::uint16_t lanes, std::uint32_t window = 16) {
  return {.window = window, .batch = 1, .lanes = lanes, .names = {"echo"}};
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

TEST(RegistryRoom, DescriptorsComeBackWithTheLanes) {
  RegistryOptions options = roomy();
  options.descriptors_max = 3;  // a connection and a lane
  RegistryWorld world(options);
  {
    Peer peer(world.path());
    expect_welcome(world.ask(peer, echo_with(1)));
    Peer second(world.path());
    expect_refused(world.hear(second), RefuseCode::kNoRoom, "descriptors");
  }
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  Peer third(world.path());
  expect_refused(world.ask(third, echo_with(1)), RefuseCode::kNoRoom, "descriptors");
  EXPECT_TRUE(world.hear(third).ended);
  world.give_lanes_back();
  Peer fourth(world.path());
  expect_refused(world.ask(fourth, echo_with(2)), RefuseCode::kNoRoom, "descriptors");
  Peer fifth(world.path());
  expect_welcome(world.ask(fifth, echo_with(1)));
}

TEST(RegistryRoom, WindowsAreASumWithABound) {
  RegistryOptions options = roomy();
  options.window_max = 16;
  options.windows_max = 20;
  RegistryWorld world(options);
  Peer first(world.path());
  EXPECT_EQ(expect_welcome(world.ask(first, echo_with(1, 0))).window, 16U)
      << "as many as there may be";
  Peer second(world.path());
  EXPECT_EQ(expect_welcome(world.ask(second, echo_with(2, 100))).window, 2U)
      << "what is left, shared by its lanes";
  Peer third(world.path());
  expect_refused(world.ask(third, echo_with(1)), RefuseCode::kNoRoom, "smaller windows");
  first.leave();
  second.leave();
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 2; }));
  world.give_lanes_back();
  Peer fourth(world.path());
  EXPECT_EQ(expect_welcome(world.ask(fourth, echo_with(1, 100))).window, 16U);
}

TEST(RegistryRoom, AShardHasPlacesForSoManyLanes) {
  RegistryOptions options = roomy();
  options.lanes_per_shard_max = 2;
  RegistryWorld world(options, 2);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 2; ++i) {
    peers.push_back(std::make_unique<Peer>(world.path()));
    expect_welcome(world.ask(*peers.back(), echo_with(0)));
  }
  Peer third(world.path());
  expect_refused(world.ask(third, echo_with(1)), RefuseCode::kNoRoom, "too many backends");
  peers.clear();
  ASSERT_TRUE(world.wait_until([&] { return world.news(1).gone.size() == 2; }));
  world.give_lanes_back();
  Peer fourth(world.path());
  expect_refused(world.ask(fourth, echo_with(5)), RefuseCode::kNoRoom, "too many backends");
  Peer fifth(world.path());
  expect_welcome(world.ask(fifth, echo_with(4)));
}

TEST(RegistryRoom, TheBatchIsBounded) {
  RegistryOptions options = roomy();
  options.batch_max = 4;
  RegistryWorld world(options);
  Peer peer(world.path());
  EXPECT_EQ(expect_welcome(world.ask(peer, {.batch = 64, .lanes = 1, .names = {"echo"}})).batch,
            4U);
}

TEST(RegistryRoom, AnOpenRegistryTakesNewNames) {
  RegistryOptions options = roomy();
  options.open = true;
  options.services_max = 3;
  RegistryWorld world(options, 2);
  Peer peer(world.path());
  expect_welcome(world.ask(peer, {.lanes = 1, .names = {"echo", "new", "NEW"}}));
  for (const std::size_t shard : {0U, 1U}) {
    ShardNews& news = world.news(shard);
    ASSERT_NE(news.table, nullptr);
    EXPECT_EQ(news.order[0], 'T') << "the name before the lanes that serve it";
    EXPECT_EQ(news.table->find("echo"), 0U) << "ids stay";
    EXPECT_EQ(news.table->find("new"), 2U);
    EXPECT_FALSE((*news.table)[2].configured);
    EXPECT_EQ(news.routes.at(2).backends, 1U);
  }
  Peer again(world.path());
  expect_welcome(world.ask(again, {.lanes = 1, .names = {"new"}}));
  Peer more(world.path());
  expect_refused(world.ask(more, {.lanes = 1, .names = {"newer"}}), RefuseCode::kNoRoom,
                 "no place is left for names");
}

// Nothing that the registry says to a shard is lost or overtaken when its mailbox is full.
TEST(RegistryRoom, AFullMailboxLosesNothing) {
  RegistryWorld world(roomy(), 1, {{.name = "echo"}, {.name = "time"}}, 1);
  Peer peer(world.path());
  expect_welcome(world.ask(peer, {.lanes = 3, .names = {"echo", "time"}}));
  peer.send(encode_plain(MessageType::kDrain));
  peer.leave();
  ASSERT_TRUE(world.wait_until([&] { return world.news().gone.size() == 1; }));
  EXPECT_EQ(world.news().order, "LLLRRDRG");
}

TEST(RegistryRoom, LeavesNoDescriptorBehind) {
  const std::size_t before = open_descriptors();
  {
    RegistryWorld world(roomy(), 2);
    for (int i = 0; i < 5; ++i) {
      Peer served(world.path());
      expect_welcome(world.ask(served, echo_with(0)));
      Peer refused(world.path());
      expect_refused(world.ask(refused, {.names = {"nobody"}}), RefuseCode::kUnknownService, "");
    }
    Peer stays(world.path());
    expect_welcome(world.ask(stays, echo_with(0)));
    const Peer silent(world.path());
  }
  EXPECT_EQ(open_descriptors(), before);
}

// The effective user of this thread alone (setresuid(2) of the kernel, without glibc's signal to
// all threads): the registry sees who connected.
class AnotherUser {
 public:
  static constexpr uid_t kUid = 65534;
  AnotherUser() { changed_ = ::syscall(SYS_setresuid, -1, kUid, -1) == 0; }
  ~AnotherUser() {
    if (changed_) TCPMUX_CHECK(::syscall(SYS_setresuid, -1, 0, -1) == 0, "root comes back");
  }
  AnotherUser(const AnotherUser&) = delete;
  AnotherUser& operator=(const AnotherUser&) = delete;

 private:
  bool changed_ = false;
};

class RegistryUsers : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  }
  static Told ask_as_another(RegistryWorld& world, const std::string& name = "time") {
    const std::string folder = std::filesystem::path(world.path()).parent_path();
    EXPECT_EQ(::chmod(folder.c_str(), 0755), 0);
    std::optional<Peer> peer;
    {
      const AnotherUser user;
      peer.emplace(world.path());
    }
    return world.ask(*peer, {.lanes = 1, .names = {name}});
  }
};

TEST_F(RegistryUsers, AStrangerIsRefusedByTheRulesName) {
  RegistryWorld world(roomy());
  const Told told = ask_as_another(world);
  expect_refused(told, RefuseCode::kNotAllowed, "(uid 65534) may not register 'time'");
  expect_refused(told, RefuseCode::kNotAllowed, "services.time.users");
}

TEST_F(RegistryUsers, AUserOfTheRegistryIsWelcome) {
  RegistryOptions options = roomy();
  options.users = {1, AnotherUser::kUid};
  RegistryWorld world(options);
  expect_welcome(ask_as_another(world));
}

TEST_F(RegistryUsers, AGroupOfTheRegistryIsWelcome) {
  RegistryOptions options = roomy();
  options.groups = {::getegid()};
  RegistryWorld world(options);
  expect_welcome(ask_as_another(world));
}

TEST_F(RegistryUsers, AUserOfTheServiceIsWelcomeToThatOne) {
  const std::vector<Service> services = {{.name = "echo"},
                                         {.name = "time", .users = {AnotherUser::kUid}}};
  RegistryWorld world(roomy(), 1, services);
  expect_welcome(ask_as_another(world));
  const std::vector<Service> other_way = {{.name = "echo", .users = {AnotherUser::kUid}},
                                          {.name = "time"}};
  RegistryWorld other(roomy(), 1, other_way);
  expect_refused(ask_as_another(other), RefuseCode::kNotAllowed, "'time'");
}

// Who may register is said anew by each configuration, also where any name may be registered.
TEST_F(RegistryUsers, WhatAServiceAllowedGoesWithTheService) {
  RegistryOptions options = roomy();
  options.open = true;
  RegistryWorld world(options, 1,
                      {{.name = "echo"}, {.name = "time", .users = {AnotherUser::kUid}}});
  const auto change = [&](std::vector<Service> services) {
    const ServiceTable table = ServiceTable::build(std::move(services)).value();
    world.on_loop([&] { world.registry().change(options, table, 1, 1); });
  };
  change({{.name = "echo"}});
  expect_refused(ask_as_another(world), RefuseCode::kNotAllowed, "'time'");
  change({{.name = "echo", .users = {AnotherUser::kUid}}});
  expect_welcome(ask_as_another(world, "echo"));
  options.users = {AnotherUser::kUid};
  change({{.name = "echo"}});
  expect_welcome(ask_as_another(world));
  options.users = {};
  change({{.name = "echo"}});
  expect_refused(ask_as_another(world, "echo"), RefuseCode::kNotAllowed, "'echo'");
}

}  // namespace
}  // namespace tcpmux::handoff
