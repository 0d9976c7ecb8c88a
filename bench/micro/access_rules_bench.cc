// May this source use the service? With one prefix and with ten thousand: the rules' tree beside a
// walk over all prefixes, and beside a binary search over the ranges that the prefixes cut out.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "core/base/check.h"
#include "core/mux/policy.h"

namespace bench {
namespace {

using tcpmux::AccessRules;
using tcpmux::IpAddress;
using tcpmux::Prefix;

constexpr std::size_t kQuestions = 4096;  // a power of two, so that the remainder costs nothing

IpAddress v4_from(std::uint32_t number) {
  IpAddress address{.family = IpAddress::Family::kV4};
  for (std::size_t i = 0; i < 4; ++i)
    address.bytes[i] = static_cast<std::uint8_t>(number >> (24 - 8 * i));
  return address;
}

std::uint32_t number_of(const IpAddress& address) {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < 4; ++i)
    number = (number << 8) | address.bytes[i];
  return number;
}

std::uint32_t mask_of(int length) {
  return length == 0 ? 0 : ~std::uint32_t{0} << (32 - length);
}

IpAddress v6_from(std::mt19937& random) {
  IpAddress address{.family = IpAddress::Family::kV6};
  for (std::uint8_t& byte : address.bytes)
    byte = static_cast<std::uint8_t>(random());
  return address;
}

// The plainest way: every prefix is looked at, and the longest that matches decides.
class EveryPrefix {
 public:
  EveryPrefix(const std::vector<Prefix>& allow, const std::vector<Prefix>& deny) {
    for (const Prefix& prefix : allow)
      prefixes_.push_back({number_of(prefix.address), prefix.length, true});
    for (const Prefix& prefix : deny)
      prefixes_.push_back({number_of(prefix.address), prefix.length, false});
    allow_by_default_ = allow.empty();
  }
  bool allows(const IpAddress& address) const {
    const std::uint32_t number = number_of(address);
    int longest = -1;
    bool allowed = allow_by_default_;
    for (const Entry& entry : prefixes_) {
      if (entry.length <= longest || (number & mask_of(entry.length)) != entry.number) continue;
      longest = entry.length;
      allowed = entry.allowed;
    }
    return allowed;
  }

 private:
  struct Entry {
    std::uint32_t number;
    int length;
    bool allowed;
  };
  std::vector<Entry> prefixes_;
  bool allow_by_default_ = true;
};

// Between the ends of all prefixes the answer is the same, so it is worked out once for each range.
class Ranges {
 public:
  Ranges(const std::vector<Prefix>& allow, const std::vector<Prefix>& deny,
         const AccessRules& rules) {
    begins_.push_back(0);
    for (const std::vector<Prefix>* list : {&allow, &deny}) {
      for (const Prefix& prefix : *list) {
        const std::uint32_t last = number_of(prefix.address) | ~mask_of(prefix.length);
        begins_.push_back(number_of(prefix.address));
        if (last != UINT32_MAX) begins_.push_back(last + 1);
      }
    }
    std::sort(begins_.begin(), begins_.end());
    begins_.erase(std::unique(begins_.begin(), begins_.end()), begins_.end());
    for (const std::uint32_t begin : begins_)
      allowed_.push_back(rules.allows(v4_from(begin)));
  }
  bool allows(const IpAddress& address) const {
    const auto behind = std::upper_bound(begins_.begin(), begins_.end(), number_of(address));
    return allowed_[static_cast<std::size_t>(behind - begins_.begin()) - 1];
  }

 private:
  std::vector<std::uint32_t> begins_;
  std::vector<char> allowed_;
};

struct World {
  explicit World(std::size_t prefixes) {
    std::mt19937 random(1078);
    while (allow.size() + deny.size() < prefixes) {
      const int length = 8 + static_cast<int>(random() % 25);
      const Prefix prefix{v4_from(static_cast<std::uint32_t>(random()) & mask_of(length)), length};
      if (std::find(allow.begin(), allow.end(), prefix) != allow.end()) continue;
      if (std::find(deny.begin(), deny.end(), prefix) != deny.end()) continue;
      (deny.size() < allow.size() ? deny : allow).push_back(prefix);
    }
    auto built = AccessRules::build(allow, deny);
    TCPMUX_CHECK(built.has_value(), "no prefix is in both lists");
    rules = *std::move(built);
    every = std::make_unique<EveryPrefix>(allow, deny);
    ranges = std::make_unique<Ranges>(allow, deny, rules);
    for (std::size_t i = 0; i < kQuestions; ++i)
      sources.push_back(source_near(random));
    for (const IpAddress& source : sources) {
      const bool allowed = rules.allows(source);
      TCPMUX_CHECK(every->allows(source) == allowed && ranges->allows(source) == allowed,
                   "all ways come to the same");
    }
  }

  // Half of them behind a prefix, the others anywhere.
  IpAddress source_near(std::mt19937& random) const {
    const auto anywhere = static_cast<std::uint32_t>(random());
    const std::vector<Prefix>& list = random() % 2 == 0 || deny.empty() ? allow : deny;
    const Prefix& prefix = list[random() % list.size()];
    if (random() % 2 == 0) return v4_from(anywhere);
    return v4_from(number_of(prefix.address) | (anywhere & ~mask_of(prefix.length)));
  }

  std::vector<Prefix> allow;
  std::vector<Prefix> deny;
  AccessRules rules;
  std::unique_ptr<EveryPrefix> every;
  std::unique_ptr<Ranges> ranges;
  std::vector<IpAddress> sources;
};

const World& world_of(std::int64_t prefixes) {
  static const World one(1);
  static const World many(10'000);
  return prefixes == 1 ? one : many;
}

template <class Rules>
void ask(benchmark::State& state, const Rules& rules, const std::vector<IpAddress>& sources) {
  std::size_t at = 0;
  for (auto _ : state)
    benchmark::DoNotOptimize(rules.allows(sources[at++ % kQuestions]));
}
void ask_rules(benchmark::State& state) {
  const World& world = world_of(state.range(0));
  ask(state, world.rules, world.sources);
}
void ask_every_prefix(benchmark::State& state) {
  const World& world = world_of(state.range(0));
  ask(state, *world.every, world.sources);
}
void ask_ranges(benchmark::State& state) {
  const World& world = world_of(state.range(0));
  ask(state, *world.ranges, world.sources);
}
BENCHMARK(ask_rules)->Name("access/rules")->Arg(1)->Arg(10'000);
BENCHMARK(ask_every_prefix)->Name("access/every_prefix")->Arg(1)->Arg(10'000);
BENCHMARK(ask_ranges)->Name("access/ranges")->Arg(1)->Arg(10'000);

// IPv6 costs the most where a whole address is listed: one step for each of its bits.
void ask_whole_v6(benchmark::State& state) {
  std::mt19937 random(1078);
  std::vector<Prefix> allow;
  for (std::int64_t i = 0; i < state.range(0); ++i)
    allow.push_back({v6_from(random), 128});
  const auto rules = AccessRules::build(allow, {});
  TCPMUX_CHECK(rules.has_value(), "there is nothing to clash with");
  std::vector<IpAddress> sources;
  for (std::size_t i = 0; i < kQuestions; ++i)
    sources.push_back(allow[random() % allow.size()].address);
  TCPMUX_CHECK(rules->allows(sources[0]) && !rules->allows(v6_from(random)),
               "who is listed, and nobody else");
  ask(state, *rules, sources);
}
BENCHMARK(ask_whole_v6)->Name("access/rules_whole_v6")->Arg(1)->Arg(10'000);

}  // namespace
}  // namespace bench
