// The service table: names without case, arbitrary bytes asked for, a million services, and the
// replies that are made beforehand.
#include "core/mux/service_table.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace {
std::size_t allocations = 0;  // counted by the operators below
}

void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
void* operator new(std::size_t bytes) {
  if (void* const memory = operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace tcpmux {
namespace {

Service named(std::string name) {
  Service service;
  service.name = std::move(name);
  return service;
}

ServiceTable table_of(std::initializer_list<const char*> names) {
  std::vector<Service> services;
  for (const char* name : names)
    services.push_back(named(name));
  return ServiceTable::build(std::move(services)).value();
}

std::string error_of(std::vector<Service> services) {
  const Result<ServiceTable> table = ServiceTable::build(std::move(services));
  return table ? "no error" : table.error().message;
}

TEST(ServiceName, SaysWhyNot) {
  EXPECT_EQ(why_not_a_service_name("echo"), std::nullopt);
  EXPECT_EQ(why_not_a_service_name("!~"), std::nullopt) << "the first and the last visible byte";
  EXPECT_EQ(why_not_a_service_name(std::string(255, 'x')), std::nullopt);
  EXPECT_EQ(why_not_a_service_name("helper"), std::nullopt);
  EXPECT_NE(why_not_a_service_name(std::string(256, 'x')), std::nullopt);
  EXPECT_NE(why_not_a_service_name(""), std::nullopt);
  for (const char* help : {"help", "HELP", "hElP"})
    EXPECT_NE(why_not_a_service_name(help).value_or("").find("RFC 1078"), std::string::npos);
}

TEST(ServiceName, AllowsVisibleAsciiAndNothingElse) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = std::string("a") + static_cast<char>(byte) + "z";
    EXPECT_EQ(why_not_a_service_name(name) == std::nullopt, byte >= 0x21 && byte <= 0x7E) << byte;
  }
}

TEST(ServiceTable, AnEmptyTableKnowsNothing) {
  EXPECT_EQ(ServiceTable().find("echo"), kNoService);
  EXPECT_EQ(ServiceTable().find(""), kNoService);
  EXPECT_EQ(ServiceTable().help_reply(), "");
  EXPECT_EQ(table_of({}).find("echo"), kNoService);
  EXPECT_EQ(table_of({}).size(), 0u);
}

TEST(ServiceTable, GivesIdsInOrder) {
  const ServiceTable table = table_of({"zeta", "alpha", "Mid"});
  EXPECT_EQ(table.find("zeta"), 0u);
  EXPECT_EQ(table.find("alpha"), 1u);
  EXPECT_EQ(table.find("mid"), 2u);
  EXPECT_EQ(table[2].name, "Mid");
  EXPECT_EQ(table.size(), 3u);
}

TEST(ServiceTable, ComparesAllLettersWithoutCaseAndNothingElse) {
  const std::string lower = "abcdefghijklmnopqrstuvwxyz";
  const std::string upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const ServiceTable alphabet = table_of({lower.c_str()});
  EXPECT_EQ(alphabet.find(upper), 0u);
  for (std::size_t i = 0; i < lower.size(); ++i) {
    std::string one_upper = lower;
    one_upper[i] = upper[i];
    EXPECT_EQ(alphabet.find(one_upper), 0u);
  }
  // 0x20 apart, as the two cases of a letter are, but no letters: '[' and '{', '@' and '`' ...
  for (int byte = 0x21; byte <= 0x7E; ++byte) {
    const std::string name = std::string("x") + static_cast<char>(byte);
    const ServiceTable table = table_of({name.c_str()});
    for (int other = 0; other < 256; ++other) {
      const bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
      const bool same = other == byte || (letter && other == (byte ^ 0x20));
      const std::string asked = std::string("X") + static_cast<char>(other);
      EXPECT_EQ(table.find(asked) == 0u, same) << byte << " asked as " << other;
    }
  }
}

TEST(ServiceTable, NearMissesAreMisses) {
  const ServiceTable table = table_of({"echo", "echo2", "chat"});
  for (const char* near : {"", "e", "ech", "echo ", " echo", "echoo", "echo22", "ohce", "echo1"})
    EXPECT_EQ(table.find(near), kNoService) << near;
  EXPECT_EQ(table.find(std::string_view("echo\0", 5)), kNoService);
  EXPECT_EQ(table.find(std::string_view("\0echo", 5)), kNoService);
}

TEST(ServiceTable, AnyBytesMayBeAskedFor) {
  const ServiceTable table = table_of({"echo", "chat", "\x7E\x21"});
  std::mt19937 random(7);
  std::string asked;
  for (int round = 0; round < 100'000; ++round) {
    asked.resize(random() % 20);
    for (char& c : asked)
      c = static_cast<char>(random());
    const ServiceId id = table.find(asked);
    ASSERT_TRUE(id == kNoService || asked.size() == table[id].name.size());
  }
  EXPECT_EQ(table.find(std::string(1 << 20, '\xFF')), kNoService);
  EXPECT_EQ(table.find(std::string(256, 'x')), kNoService);
}

TEST(ServiceTable, RefusesClashesAndBadServices) {
  const std::string clash = error_of({named("Echo"), named("chat"), named("eCHO")});
  EXPECT_NE(clash.find("'Echo' and 'eCHO'"), std::string::npos) << clash;
  EXPECT_NE(error_of({named("")}), "no error");
  EXPECT_NE(error_of({named("Help")}), "no error");
  EXPECT_NE(error_of({named("two words")}), "no error");
  for (const char* line_end : {"a\r", "\nb", "a\r\nb"}) {
    Service service = named("echo");
    service.message = line_end;
    EXPECT_NE(error_of({service}).find("line end"), std::string::npos);
  }
  Service service = named("echo");
  service.message = std::string(512, 'm');
  EXPECT_EQ(error_of({service}), "no error");
  service.message += "m";
  EXPECT_NE(error_of({service}).find("512"), std::string::npos);
}

TEST(ServiceTable, WithAddsBehindAllOthers) {
  const ServiceTable before = table_of({"b", "a"});
  const ServiceTable after = before.with(named("C")).value();
  EXPECT_EQ(after.find("b"), 0u);
  EXPECT_EQ(after.find("a"), 1u);
  EXPECT_EQ(after.find("c"), 2u);
  EXPECT_EQ(after.help_reply(), "a\r\nb\r\nC\r\n");
  EXPECT_EQ(before.size(), 2u);
  EXPECT_EQ(before.find("c"), kNoService);
  EXPECT_FALSE(after.with(named("A")).has_value());
  EXPECT_EQ(ServiceTable().with(named("first")).value().find("FIRST"), 0u);
}

TEST(ServiceTable, RepliesAreMadeBeforehand) {
  Service plain = named("plain");
  Service greeting = named("greeting");
  greeting.message = "welcome";
  const ServiceTable table = ServiceTable::build({plain, greeting}).value();
  EXPECT_EQ(table.accept_reply(0), "+\r\n");
  EXPECT_EQ(table.accept_reply(1), "+welcome\r\n");
}

TEST(ServiceTable, HelpIsSortedWithoutCaseAndOmitsTheHidden) {
  Service hidden = named("b-hidden");
  hidden.hidden = true;
  const ServiceTable table =
      ServiceTable::build({named("zeta"), named("Beta"), hidden, named("alpha"), named("beta2")})
          .value();
  EXPECT_EQ(table.help_reply(), "alpha\r\nBeta\r\nbeta2\r\nzeta\r\n");
  EXPECT_EQ(table.find("B-Hidden"), 2u) << "hidden from the list, not from those who know it";
}

std::string numbered(std::size_t number) {
  return "Service-" + std::to_string(number);
}

// Nanoseconds for many look-ups in `table`, of names that are there and names that are not.
std::int64_t cost_of_look_ups(const ServiceTable& table, std::size_t names) {
  constexpr std::size_t kLookUps = 20'000;
  std::vector<std::string> asked;
  for (std::size_t i = 0; i < kLookUps; ++i)
    asked.push_back(numbered(i * 7919 % names) + (i % 2 == 0 ? "" : "?"));
  const std::size_t allocations_before = allocations;
  const auto start = std::chrono::steady_clock::now();
  std::size_t found = 0;
  for (const std::string& name : asked)
    found += table.find(name) != kNoService ? 1 : 0;
  const auto passed = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(allocations, allocations_before) << "a look-up allocated";
  EXPECT_EQ(found, kLookUps / 2);
  return std::chrono::nanoseconds(passed).count();
}

ServiceTable numbered_table(std::size_t count) {
  std::vector<Service> services;
  services.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    services.push_back(named(numbered(i)));
  for (Service& service : services)
    service.hidden = true;  // spares the sorting for HELP
  return ServiceTable::build(std::move(services)).value();
}

TEST(ServiceTable, AMillionServicesAreFoundAtTheCostOfAFew) {
  constexpr std::size_t kCount = 1'000'000;
  const ServiceTable table = numbered_table(kCount);
  ASSERT_EQ(table.size(), kCount);
  std::string name;
  for (std::size_t i = 0; i < kCount; ++i) {
    name = numbered(i);
    name[0] = i % 2 == 0 ? 's' : 'S';
    ASSERT_EQ(table.find(name), i);
    name += '_';
    ASSERT_EQ(table.find(name), kNoService);
  }
  // What costs more than a few is the cache, some ten times; a walk along the services, or along
  // full buckets, would cost thousands of times as much.
  const ServiceTable few = numbered_table(10);
  EXPECT_LT(cost_of_look_ups(table, kCount), 300 * cost_of_look_ups(few, 10));
}

}  // namespace
}  // namespace tcpmux
