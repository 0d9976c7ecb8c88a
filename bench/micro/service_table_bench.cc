// Looking up a name among 1, a thousand, a million: the service table beside a std::unordered_map
// and a sorted vector, both of which need the name folded first. Names are asked for in no order,
// in mixed case, and those that miss look like those that hit.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bench/micro/letter_case.h"
#include "core/base/check.h"
#include "core/mux/service_table.h"

namespace bench {
namespace {

using tcpmux::ServiceId;
using tcpmux::ServiceTable;

constexpr std::size_t kQuestions = 4096;  // a power of two, so that the remainder costs nothing

// The least that a caller of the other two needs: the folded name, without an allocation.
class FoldedName {
 public:
  explicit FoldedName(std::string_view name) : bytes_(name.size()) {
    std::transform(name.begin(), name.end(), folded_, FoldByArithmetic());
  }
  operator std::string_view() const { return {folded_, bytes_}; }

 private:
  char folded_[tcpmux::kServiceNameBytesMax];
  std::size_t bytes_;
};

struct HashOfText {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>()(text);
  }
};

class HashMap {
 public:
  explicit HashMap(const std::vector<std::string>& names) {
    for (ServiceId id = 0; id < names.size(); ++id)
      ids_.emplace(FoldedName(names[id]), id);
  }
  ServiceId find(std::string_view name) const {
    const auto found = ids_.find(std::string_view(FoldedName(name)));
    return found == ids_.end() ? tcpmux::kNoService : found->second;
  }

 private:
  std::unordered_map<std::string, ServiceId, HashOfText, std::equal_to<>> ids_;
};

class SortedVector {
 public:
  explicit SortedVector(const std::vector<std::string>& names) {
    for (ServiceId id = 0; id < names.size(); ++id)
      ids_.emplace_back(FoldedName(names[id]), id);
    std::sort(ids_.begin(), ids_.end());
  }
  ServiceId find(std::string_view name) const {
    const FoldedName folded(name);
    const auto found = std::lower_bound(
        ids_.begin(), ids_.end(), std::string_view(folded),
        [](const auto& entry, std::string_view text) { return entry.first < text; });
    const bool hit = found != ids_.end() && found->first == std::string_view(folded);
    return hit ? found->second : tcpmux::kNoService;
  }

 private:
  std::vector<std::pair<std::string, ServiceId>> ids_;
};

// A number in letters, so that case matters in every place of a name.
std::string name_of(std::size_t number) {
  std::string name = "service-";
  for (int i = 0; i < 6; ++i, number /= 26)
    name += static_cast<char>('a' + number % 26);
  return name;
}

std::string in_mixed_case(std::string name) {
  for (std::size_t i = 0; i < name.size(); i += 2)
    name[i] = static_cast<char>(std::toupper(name[i]));
  return name;
}

struct Names {
  explicit Names(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      known.push_back(name_of(i));
    std::mt19937 random(1078);
    for (std::size_t i = 0; i < kQuestions; ++i) {
      const std::size_t number = random() % count;
      hits.push_back(in_mixed_case(name_of(number)));
      misses.push_back(in_mixed_case(name_of(count + number)));
    }
  }
  std::vector<std::string> known;
  std::vector<std::string> hits;
  std::vector<std::string> misses;
};

ServiceTable made(const Names& names, const ServiceTable*) {
  std::vector<tcpmux::Service> services;
  services.reserve(names.known.size());
  for (const std::string& name : names.known)
    services.push_back({.name = name});
  auto table = ServiceTable::build(std::move(services));
  TCPMUX_CHECK(table.has_value(), "the names are good and differ");
  return *std::move(table);
}
template <class Map>
Map made(const Names& names, const Map*) {
  return Map(names.known);
}

// Kept from one run of a benchmark to its next, because a million names take a while.
template <class Map>
struct World {
  explicit World(std::size_t count)
      : names(count), map(made(names, static_cast<const Map*>(nullptr))) {
    for (ServiceId id = 0; id < count; ++id)
      TCPMUX_CHECK(map.find(names.known[id]) == id, "ids are given in order");
    for (std::size_t i = 0; i < kQuestions; ++i) {
      const ServiceId id = map.find(names.hits[i]);
      TCPMUX_CHECK(id != tcpmux::kNoService && in_mixed_case(names.known[id]) == names.hits[i],
                   "case does not matter");
      TCPMUX_CHECK(map.find(names.misses[i]) == tcpmux::kNoService,
                   "what is not there is not found");
    }
  }
  Names names;
  Map map;
};

template <class Map>
const World<Map>& world_of(std::size_t count) {
  static std::unique_ptr<World<Map>> world;
  if (world == nullptr || world->names.known.size() != count) {
    world.reset();
    world = std::make_unique<World<Map>>(count);
  }
  return *world;
}

// First the number of names, then whether the name that is asked for is among them.
template <class Map>
void look_up(benchmark::State& state) {
  const World<Map>& world = world_of<Map>(static_cast<std::size_t>(state.range(0)));
  const std::vector<std::string>& questions =
      state.range(1) != 0 ? world.names.hits : world.names.misses;
  std::size_t at = 0;
  for (auto _ : state)
    benchmark::DoNotOptimize(world.map.find(questions[at++ % kQuestions]));
}

// The most first, so that what is kept to the end is little.
void sizes(benchmark::internal::Benchmark* one) {
  one->ArgNames({"names", "hit"});
  for (const std::int64_t names : {1'000'000, 1'000, 1})
    one->Args({names, 1})->Args({names, 0});
}
BENCHMARK(look_up<ServiceTable>)->Name("look_up/table")->Apply(sizes);
BENCHMARK(look_up<HashMap>)->Name("look_up/unordered_map")->Apply(sizes);
BENCHMARK(look_up<SortedVector>)->Name("look_up/sorted_vector")->Apply(sizes);

}  // namespace
}  // namespace bench
