// Names are compared and hashed without case: what a way to fold letters costs in both.
#include <benchmark/benchmark.h>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "bench/micro/letter_case.h"
#include "bench/micro/name_lengths.h"
#include "core/base/check.h"
#include "core/mux/service_table.h"

namespace bench {
namespace {

using tcpmux::ServiceTable;

constexpr std::size_t kLengths[] = {1, 7, 8, 11};  // less than a word, one, and one and a part

std::string with(std::size_t length, std::size_t at, int byte) {
  std::string name(length, '-');
  name[at] = static_cast<char>(byte);
  return name;
}

// Every visible byte in a table's name, and every byte in what is asked for.
template <class Compare>
bool compare_with_table(Compare compare) {
  for (const std::size_t length : kLengths) {
    for (std::size_t at = 0; at < length; ++at) {
      for (int known = 0x21; known <= 0x7E; ++known) {
        const std::string name = with(length, at, known);
        const auto table = ServiceTable::build({{.name = name}});
        TCPMUX_CHECK(table.has_value(), "a visible name is good");
        for (int asked = 0; asked < 256; ++asked) {
          const std::string other = with(length, at, asked);
          compare(name, other, table->find(other) != tcpmux::kNoService);
        }
      }
    }
  }
  return true;
}

// A name, and the same with every other letter in the other case.
struct Pair {
  explicit Pair(std::size_t length) {
    for (std::size_t i = 0; i < length; ++i) {
      lower += static_cast<char>('a' + i % 26);
      mixed += static_cast<char>(i % 2 == 0 ? std::toupper(lower.back()) : lower.back());
    }
  }
  std::string lower;
  std::string mixed;
};

template <bool (*same)(std::string_view, std::string_view)>
void compare_names(benchmark::State& state) {
  static const bool checked [[maybe_unused]] = compare_with_table([](auto a, auto b, bool found) {
    TCPMUX_CHECK(same(a, b) == found, "it finds the same what the table finds the same");
  });
  TCPMUX_CHECK(!same("name", "names"), "names of different lengths differ");
  const Pair pair(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state)
    benchmark::DoNotOptimize(same(pair.lower, pair.mixed));
}

template <std::uint32_t (*hash)(std::string_view)>
void hash_name(benchmark::State& state) {
  static const bool checked [[maybe_unused]] = compare_with_table([](auto a, auto b, bool found) {
    TCPMUX_CHECK((hash(a) == hash(b)) == found,
                 "names have one hash exactly where the table finds them the same");
  });
  const Pair pair(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state)
    benchmark::DoNotOptimize(hash(pair.mixed));
}

BENCHMARK(compare_names<same_name_by_range>)->Name("same_name/range")->Apply(name_lengths);
BENCHMARK(compare_names<same_name_by_table>)->Name("same_name/table")->Apply(name_lengths);
BENCHMARK(compare_names<same_name_by_arithmetic>)
    ->Name("same_name/arithmetic")
    ->Apply(name_lengths);
BENCHMARK(compare_names<same_name_by_word>)->Name("same_name/word")->Apply(name_lengths);

BENCHMARK(hash_name<hash_by_range>)->Name("hash/range")->Apply(name_lengths);
BENCHMARK(hash_name<hash_by_table>)->Name("hash/table")->Apply(name_lengths);
BENCHMARK(hash_name<hash_by_arithmetic>)->Name("hash/arithmetic")->Apply(name_lengths);
BENCHMARK(hash_name<hash_by_word>)->Name("hash/word")->Apply(name_lengths);

}  // namespace
}  // namespace bench
