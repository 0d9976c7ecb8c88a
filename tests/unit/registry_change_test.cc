// The registry under a new configuration: names that come and go, and what shards are told of it.
#include <gtest/gtest.h>

#include "tests/unit/registry_fixture.h"

namespace tcpmux::handoff {
namespace {

Register serving(std::vector<std::string> names, std::uint16_t lanes = 1,
                 std::uint32_t window = 16) {
  return {.window = window, .batch = 1, .lanes = lanes, .names = std::move(names)};
}

void forget(ShardNews& news) {
  news.order.clear();
  news.lanes.clear();
  news.gone.clear();
  news.draining.clear();
}

ServiceTable table_of(std::vector<Service> services) {
  return ServiceTable::build(std::move(services)).value();
}
void change(RegistryWorld& world, const RegistryOptions& options, std::vector<Service> services) {
  const ServiceTable table = table_of(std::move(services));
  world.on_loop([&] { world.registry().change(options, table, 111, 222); });
  world.pump();
}

TEST(RegistryChange, NamesComeAndGo) {
  RegistryWorld world(roomy(), 2);
  Peer peer(world.path());
  expect_welcome(world.ask(peer, serving({"echo", "time"})));
  change(world, roomy(), {{.name = "new"}, {.name = "time"}});
  for (const std::size_t shard : {0U, 1U}) {
    EXPECT_TRUE(world.news(shard).order.ends_with("Tt"));
    EXPECT_TRUE((*world.news(shard).table)[0].removed);
    EXPECT_EQ(world.news(shard).table->find("new"), 2U);
  }
  EXPECT_EQ(world.backend_count(), 1U) << "its lanes stay, and it serves the other name";
  Peer for_new(world.path());
  expect_welcome(world.ask(for_new, serving({"new"})));
  Peer for_removed(world.path());
  expect_refused(world.ask(for_removed, serving({"echo"})), RefuseCode::kUnknownService, "echo");
  change(world, roomy(), {{.name = "Echo"}});
  Peer once_more(world.path());
  expect_welcome(world.ask(once_more, serving({"echo"})));
  EXPECT_EQ(world.news().lanes.back()->setup.services, std::vector<ServiceId>{0});
  EXPECT_EQ(world.news().routes.at(0).backends, 2U) << "and the one that never left";
}

TEST(RegistryChange, ShardsGetPlacesBeforeTheyGetNames) {
  RegistryOptions options = roomy();
  options.services_max = 2;
  RegistryWorld world(options);
  change(world, options, {{.name = "a"}});
  EXPECT_EQ(world.news().order, "MTt") << "three names, where there were places for two";
  forget(world.news());
  change(world, options, {{.name = "echo"}});
  EXPECT_EQ(world.news().order, "Tt");
  forget(world.news());
  options.open = true;
  change(world, options, {{.name = "echo"}});
  EXPECT_EQ(world.news().order, "MTt") << "places for names that will be registered";
  Peer peer(world.path());
  expect_welcome(world.ask(peer, serving({"neverheardof"})));
}

TEST(RegistryChange, TheRegistryIsOpenedAndClosed) {
  RegistryWorld world(roomy());
  RegistryOptions open = roomy();
  open.open = true;
  Peer before(world.path());
  expect_refused(world.ask(before, serving({"x"})), RefuseCode::kUnknownService, "x");
  change(world, open, {{.name = "echo"}});
  Peer peer(world.path());
  expect_welcome(world.ask(peer, serving({"x"})));
  EXPECT_FALSE((*world.news().table)[world.news().table->find("x")].removed);
  change(world, open, {{.name = "echo"}});
  EXPECT_FALSE((*world.news().table)[world.news().table->find("x")].removed);
  Peer takes_the_place(world.path());
  expect_welcome(world.ask(takes_the_place, serving({"time"})));
  EXPECT_EQ(world.news().lanes.back()->setup.services, std::vector<ServiceId>{1})
      << "of the name that was configured";
  change(world, roomy(), {{.name = "echo"}});
  EXPECT_TRUE((*world.news().table)[world.news().table->find("x")].removed);
  Peer after(world.path());
  expect_refused(world.ask(after, serving({"x"})), RefuseCode::kUnknownService, "x");
}

TEST(RegistryChange, TheWindowIsThatOfNewcomers) {
  RegistryWorld world(roomy());
  RegistryOptions smaller = roomy();
  smaller.window_max = 4;
  smaller.descriptors_max = 0;  // not to be looked at
  smaller.lanes_per_shard_max = 0;
  change(world, smaller, {{.name = "echo"}});
  Peer peer(world.path());
  EXPECT_EQ(expect_welcome(world.ask(peer, serving({"echo"}, 1, 16))).window, 4U);
}

}  // namespace
}  // namespace tcpmux::handoff
