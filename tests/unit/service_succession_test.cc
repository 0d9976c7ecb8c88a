// A later service table: ids stay, what was removed is unknown, and comes back in its own place.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/mux/service_table.h"

namespace tcpmux {
namespace {

ServiceTable table_of(std::vector<Service> services) {
  return ServiceTable::build(std::move(services)).value();
}

Service learned(std::string name) {
  return {.name = std::move(name), .configured = false};
}

TEST(ServiceSuccession, IdsStayWhateverTheOrder) {
  const ServiceTable before = table_of({{.name = "a"}, {.name = "b"}, {.name = "c"}});
  const ServiceTable after =
      table_of({{.name = "new"}, {.name = "c"}, {.name = "a"}, {.name = "b"}}).after(before, false);
  EXPECT_EQ(after.find("a"), 0U);
  EXPECT_EQ(after.find("b"), 1U);
  EXPECT_EQ(after.find("c"), 2U);
  EXPECT_EQ(after.find("new"), 3U) << "behind all others";
  EXPECT_EQ(after.size(), 4U);
}

TEST(ServiceSuccession, EverythingElseIsTheNewOnes) {
  const ServiceTable before =
      table_of({{.name = "Echo", .message = "old", .hidden = true}, {.name = "time"}});
  const ServiceTable after = table_of({{.name = "time", .users = {7}},
                                       {.name = "ECHO", .message = "new", .coalesce_reply = true}})
                                 .after(before, false);
  const Service& echo = after[0];
  EXPECT_EQ(echo.name, "ECHO") << "the same name in another case";
  EXPECT_FALSE(echo.hidden);
  EXPECT_TRUE(echo.coalesce_reply);
  EXPECT_EQ(after.accept_reply(0), "+new\r\n");
  EXPECT_EQ(after[1].users, std::vector<uid_t>{7});
  EXPECT_EQ(after.find("eCho"), 0U);
  EXPECT_EQ(after.size(), 2U);
  EXPECT_EQ(after.help_reply(), "ECHO\r\ntime\r\n");
}

TEST(ServiceSuccession, WhatIsRemovedKeepsItsPlaceAndIsMarked) {
  const ServiceTable before = table_of({{.name = "gone"}, {.name = "stays"}});
  const ServiceTable after = table_of({{.name = "stays"}}).after(before, true);
  ASSERT_EQ(after.find("gone"), 0U) << "lanes still name it";
  EXPECT_TRUE(after[0].removed);
  EXPECT_FALSE(after[0].configured) << "nobody may register it any more";
  EXPECT_FALSE(after[1].removed);
  EXPECT_EQ(after.help_reply(), "stays\r\n");
}

TEST(ServiceSuccession, WhatWasRemovedComesBack) {
  const ServiceTable first = table_of({{.name = "gone"}, {.name = "stays"}});
  const ServiceTable second = table_of({{.name = "stays"}}).after(first, false);
  const ServiceTable third =
      table_of({{.name = "stays"}, {.name = "GONE", .message = "again"}}).after(second, false);
  EXPECT_EQ(third.find("gone"), 0U);
  EXPECT_FALSE(third[0].removed);
  EXPECT_TRUE(third[0].configured);
  EXPECT_EQ(third.accept_reply(0), "+again\r\n");
  EXPECT_EQ(third.help_reply(), "GONE\r\nstays\r\n");
  // And once more through a table in which it is still removed.
  const ServiceTable fourth = table_of({{.name = "stays"}}).after(third, true);
  const ServiceTable fifth = table_of({{.name = "stays"}, {.name = "x"}}).after(fourth, true);
  EXPECT_TRUE(fifth[0].removed);
  EXPECT_EQ(fifth.find("x"), 2U);
}

TEST(ServiceSuccession, WhatNobodyConfiguredStaysWhereTheRegistryIsOpen) {
  const ServiceTable before = table_of({{.name = "echo"}}).with(learned("learned")).value();
  const ServiceTable open = table_of({{.name = "echo"}}).after(before, true);
  EXPECT_FALSE(open[1].removed);
  EXPECT_FALSE(open[1].configured);
  EXPECT_EQ(open.help_reply(), "echo\r\nlearned\r\n");
  const ServiceTable closed = table_of({{.name = "echo"}}).after(before, false);
  EXPECT_TRUE(closed[1].removed);
  EXPECT_EQ(closed.help_reply(), "echo\r\n");
  const ServiceTable configured =
      table_of({{.name = "LEARNED"}, {.name = "echo"}}).after(before, false);
  EXPECT_EQ(configured.find("learned"), 1U);
  EXPECT_TRUE(configured[1].configured);
}

TEST(ServiceSuccession, AnEmptyTableBeforeOrAfter) {
  const ServiceTable none = table_of({});
  const ServiceTable some = table_of({{.name = "a"}, {.name = "b"}});
  EXPECT_EQ(some.after(none, false).find("b"), 1U);
  EXPECT_EQ(some.after(ServiceTable(), false).find("b"), 1U);
  const ServiceTable removed = none.after(some, false);
  EXPECT_EQ(removed.size(), 2U);
  EXPECT_TRUE(removed[0].removed && removed[1].removed);
  EXPECT_EQ(removed.help_reply(), "");
}

TEST(ServiceSuccession, ANameThatIsLearnedAgainTakesItsOwnPlace) {
  const ServiceTable before = table_of({{.name = "gone"}, {.name = "stays"}});
  const ServiceTable removed = table_of({{.name = "stays"}}).after(before, true);
  const Result<ServiceTable> again = removed.with(learned("Gone"));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->size(), 2U);
  EXPECT_EQ(again->find("gone"), 0U);
  EXPECT_FALSE((*again)[0].removed);
  EXPECT_FALSE((*again)[0].configured);
  EXPECT_EQ(again->help_reply(), "Gone\r\nstays\r\n");
}

TEST(ServiceSuccession, ANameThatIsThereIsNotAdded) {
  const ServiceTable table = table_of({{.name = "echo"}});
  const Result<ServiceTable> twice = table.with(learned("ECHO"));
  ASSERT_FALSE(twice.has_value());
  EXPECT_NE(twice.error().message.find("ECHO"), std::string::npos);
  EXPECT_FALSE(table.with(learned("two words")).has_value());
}

}  // namespace
}  // namespace tcpmux
