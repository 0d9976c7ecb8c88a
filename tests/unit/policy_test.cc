// Access rules: what a prefix may look like, which prefix decides, and that the tree agrees with
// a naive search for the longest match.
#include "core/mux/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace tcpmux {
namespace {

IpAddress address(std::string_view text) {
  return parse_ip_address(text).value();
}

Prefix prefix(std::string_view text) {
  const Result<Prefix> parsed = parse_prefix(text);
  EXPECT_TRUE(parsed.has_value()) << text << ": " << parsed.error().message;
  return parsed.value_or(Prefix{});
}

AccessRules rules(std::initializer_list<std::string_view> allow,
                  std::initializer_list<std::string_view> deny) {
  std::vector<Prefix> allowed;
  std::vector<Prefix> denied;
  for (const std::string_view text : allow)
    allowed.push_back(prefix(text));
  for (const std::string_view text : deny)
    denied.push_back(prefix(text));
  return AccessRules::build(allowed, denied).value();
}

TEST(Prefix, ReadsWhatPeopleWrite) {
  const struct {
    const char* text;
    const char* canonical;
  } cases[] = {
      {"10.0.0.0/8", "10.0.0.0/8"},
      {"0.0.0.0/0", "0.0.0.0/0"},
      {"192.0.2.7", "192.0.2.7/32"},
      {"192.0.2.7/32", "192.0.2.7/32"},
      {"::1", "::1/128"},
      {"::/0", "::/0"},
      {"fd00::/8", "fd00::/8"},
      {"2001:db8::/33", "2001:db8::/33"},
      {"::ffff:10.0.0.0/104", "10.0.0.0/8"},
      {"::ffff:0.0.0.0/96", "0.0.0.0/0"},
      {"::ffff:192.0.2.7", "192.0.2.7/32"},
  };
  for (const auto& [text, canonical] : cases)
    EXPECT_EQ(to_string(prefix(text)), canonical) << text;
}

TEST(Prefix, RefusesWithAdvice) {
  const struct {
    std::string text;
    const char* advice;
  } cases[] = {
      {"", "write one as 10.0.0.0/8"},
      {"localhost", "write one as 10.0.0.0/8"},
      {"10.0.0/8", "write one as 10.0.0.0/8"},
      {"/8", "write one as 10.0.0.0/8"},
      {std::string("10.0.0.0\0/8", 11), "write one as 10.0.0.0/8"},
      {"10.0.0.0/", "a length from 0 to 32"},
      {"10.0.0.0/33", "a length from 0 to 32"},
      {"10.0.0.0/-1", "a length from 0 to 32"},
      {"10.0.0.0/+8", "a length from 0 to 32"},
      {"10.0.0.0/8 ", "a length from 0 to 32"},
      {"10.0.0.0/8/8", "a length from 0 to 32"},
      {"10.0.0.0/99999999999", "a length from 0 to 32"},
      {"::/129", "a length from 0 to 128"},
      {"::ffff:10.0.0.0/95", "from 96 to 128"},
      {"::ffff:10.0.0.0/8", "from 96 to 128"},
      {"10.0.0.1/8", "write 10.0.0.0/8"},
      {"255.255.255.255/31", "write 255.255.255.254/31"},
      {"fd00::1/8", "write fd00::/8"},
      {"::1/127", "write ::/127"},
      {"::ffff:10.0.0.1/104", "write 10.0.0.0/8"},
  };
  for (const auto& [text, advice] : cases) {
    const Result<Prefix> parsed = parse_prefix(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_NE(parsed.error().message.find(advice), std::string::npos)
        << text << ": " << parsed.error().message;
  }
}

TEST(AccessRules, WithoutRulesEveryoneIsAllowed) {
  EXPECT_TRUE(AccessRules().everyone());
  EXPECT_TRUE(rules({}, {}).everyone());
  EXPECT_TRUE(AccessRules().allows(address("192.0.2.1")));
  EXPECT_TRUE(AccessRules().allows(IpAddress{}));
}

TEST(AccessRules, AnAllowListAloneExcludesAllOthers) {
  const AccessRules only = rules({"10.0.0.0/8", "::1"}, {});
  EXPECT_FALSE(only.everyone());
  EXPECT_TRUE(only.allows(address("10.0.0.0")));
  EXPECT_TRUE(only.allows(address("10.255.255.255")));
  EXPECT_FALSE(only.allows(address("9.255.255.255")));
  EXPECT_FALSE(only.allows(address("11.0.0.0")));
  EXPECT_TRUE(only.allows(address("::1")));
  EXPECT_FALSE(only.allows(address("::2")));
}

TEST(AccessRules, ADenyListAloneAdmitsAllOthers) {
  const AccessRules all_but = rules({}, {"10.0.0.0/8", "fd00::/8"});
  EXPECT_FALSE(all_but.everyone());
  EXPECT_FALSE(all_but.allows(address("10.1.2.3")));
  EXPECT_TRUE(all_but.allows(address("11.1.2.3")));
  EXPECT_FALSE(all_but.allows(address("fd12::1")));
  EXPECT_TRUE(all_but.allows(address("fe80::1")));
}

TEST(AccessRules, TheLongestMatchDecides) {
  const AccessRules nested = rules({"10.0.0.0/8", "10.1.2.3"}, {"10.1.0.0/16", "0.0.0.0/0"});
  EXPECT_TRUE(nested.allows(address("10.2.0.0")));
  EXPECT_FALSE(nested.allows(address("10.1.2.4")));
  EXPECT_TRUE(nested.allows(address("10.1.2.3")));
  EXPECT_FALSE(nested.allows(address("192.0.2.1")));
  EXPECT_FALSE(nested.allows(address("::1"))) << "no rule for IPv6, and an allow list";
}

TEST(AccessRules, FamiliesAreApart) {
  const AccessRules v4_denied = rules({}, {"0.0.0.0/0"});
  EXPECT_FALSE(v4_denied.allows(address("1.2.3.4")));
  EXPECT_FALSE(v4_denied.allows(address("::ffff:1.2.3.4"))) << "v4-mapped is v4";
  EXPECT_TRUE(v4_denied.allows(address("102:304::"))) << "the same leading bytes, but v6";
  const AccessRules v6_denied = rules({}, {"::/0"});
  EXPECT_TRUE(v6_denied.allows(address("::ffff:1.2.3.4")));
  EXPECT_FALSE(v6_denied.allows(address("::1.2.3.4")));
}

TEST(AccessRules, AnAddressWithoutAFamilyIsNeverAllowedWhereThereIsARule) {
  EXPECT_FALSE(rules({}, {"192.0.2.0/24"}).allows(IpAddress{}));
  EXPECT_FALSE(rules({"0.0.0.0/0", "::/0"}, {}).allows(IpAddress{}));
}

TEST(AccessRules, APrefixInBothListsIsRefusedByName) {
  const Result<AccessRules> clash = AccessRules::build(
      {prefix("::1"), prefix("10.0.0.0/8")}, {prefix("192.0.2.1"), prefix("::ffff:10.0.0.0/104")});
  ASSERT_FALSE(clash.has_value());
  EXPECT_NE(clash.error().message.find("10.0.0.0/8"), std::string::npos) << clash.error().message;
  EXPECT_TRUE(AccessRules::build({prefix("10.0.0.0/8")}, {prefix("10.0.0.0/9")}).has_value());
}

// The model: look at every prefix, bit by bit.
bool matches(const Prefix& rule, const IpAddress& source) {
  if (rule.address.family != source.family) return false;
  for (int bit = 0; bit < rule.length; ++bit) {
    const auto byte = static_cast<std::size_t>(bit / 8);
    const int mask = 0x80 >> (bit % 8);
    if ((rule.address.bytes[byte] & mask) != (source.bytes[byte] & mask)) return false;
  }
  return true;
}

bool model_allows(const std::vector<Prefix>& allow, const std::vector<Prefix>& deny,
                  const IpAddress& source) {
  int longest = -1;
  bool allowed = allow.empty();
  const auto look = [&](const std::vector<Prefix>& list, bool verdict) {
    for (const Prefix& rule : list) {
      if (!matches(rule, source) || rule.length <= longest) continue;
      longest = rule.length;
      allowed = verdict;
    }
  };
  look(allow, true);
  look(deny, false);
  return allowed;
}

// Bytes come from a small set, so that prefixes nest and addresses hit them.
IpAddress random_address(std::mt19937& random) {
  IpAddress result{.family = random() % 2 == 0 ? IpAddress::Family::kV4 : IpAddress::Family::kV6};
  constexpr std::uint8_t kBytes[] = {0x00, 0x80, 0xFF, 0x01};
  for (int i = 0; i < result.bits() / 8; ++i)
    result.bytes[static_cast<std::size_t>(i)] = kBytes[random() % (i < 2 ? 4 : 2)];
  return result;
}

Prefix random_prefix(std::mt19937& random) {
  const IpAddress whole = random_address(random);
  const int length = static_cast<int>(random() % static_cast<unsigned>(whole.bits() + 1));
  Prefix result{whole, length};
  for (int bit = length; bit < whole.bits(); ++bit) {
    std::uint8_t& byte = result.address.bytes[static_cast<std::size_t>(bit / 8)];
    byte = static_cast<std::uint8_t>(byte & ~(0x80 >> (bit % 8)));
  }
  return result;
}

IpAddress flip_a_bit(IpAddress source, std::mt19937& random) {
  const unsigned bit = static_cast<unsigned>(random()) % static_cast<unsigned>(source.bits());
  source.bytes[bit / 8] = static_cast<std::uint8_t>(source.bytes[bit / 8] ^ (0x80 >> (bit % 8)));
  return source;
}

TEST(AccessRules, AgreesWithANaiveLongestMatch) {
  std::mt19937 random(20240607);
  int allowed_count = 0;
  int denied_count = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<Prefix> allow;
    std::vector<Prefix> deny;
    for (unsigned i = 0, count = static_cast<unsigned>(random()) % 40; i < count; ++i) {
      const Prefix rule = random_prefix(random);
      std::vector<Prefix>& list = random() % 2 == 0 ? allow : deny;
      const std::vector<Prefix>& other = &list == &allow ? deny : allow;
      if (std::find(other.begin(), other.end(), rule) == other.end()) list.push_back(rule);
    }
    const AccessRules built = AccessRules::build(allow, deny).value();
    for (int i = 0; i < 200; ++i) {
      IpAddress source = random_address(random);
      // At the edges of the rules: their own addresses, and one bit beside.
      if (!allow.empty() && i % 3 == 0) source = allow[random() % allow.size()].address;
      if (!deny.empty() && i % 3 == 1) source = deny[random() % deny.size()].address;
      if (i % 2 == 0) source = flip_a_bit(source, random);
      const bool expected = model_allows(allow, deny, source);
      ++(expected ? allowed_count : denied_count);
      ASSERT_EQ(built.allows(source), expected) << "round " << round << ": " << to_string(source);
      // What is written can be read again.
      const Prefix written = random_prefix(random);
      ASSERT_EQ(prefix(to_string(written)), written);
    }
  }
  EXPECT_GT(allowed_count, 5000) << "the random rules say too little";
  EXPECT_GT(denied_count, 5000) << "the random rules say too little";
}

}  // namespace
}  // namespace tcpmux
