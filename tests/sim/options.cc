#include "tests/sim/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <random>

#include "core/base/planted.h"

namespace tcpmux::sim {
namespace {

constexpr const char* kExamples = R"(Examples:
  tcpmux-sim --minutes 1                    worlds of fresh seeds, for a minute
  tcpmux-sim --seeds 1..1000                a thousand worlds, always the same
  tcpmux-sim --seed 4711 --trace            one world, and everything that happens in it
  tcpmux-sim --seed 4711 --dial stall=0     the same without stalled backends (it takes another course)
  tcpmux-sim --seed 4711 --twice            the same world twice: do both come out the same?
Exit code 0: no invariant broke. 1: one did; stderr has the seed, the dials and the end of the trace.)";

bool parse_number(std::string_view text, std::uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

// "1..100"
bool parse_range(std::string_view text, Options& options) {
  const std::size_t dots = text.find("..");
  return dots != std::string_view::npos && parse_number(text.substr(0, dots), options.first_seed) &&
         parse_number(text.substr(dots + 2), options.last_seed) &&
         options.first_seed <= options.last_seed;
}

// "stall=40"
bool parse_dial(std::string_view text, Options& options) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos) return false;
  const std::optional<Dial> dial = find_dial(text.substr(0, equals));
  std::uint64_t value = 0;
  if (!dial || !parse_number(text.substr(equals + 1), value)) return false;
  const DialInfo& about = info(*dial);
  const auto signed_value = static_cast<std::int64_t>(value);
  if (signed_value < about.least || (about.is_fault && signed_value > 1000)) return false;
  options.dials.emplace_back(*dial, signed_value);
  return true;
}

std::string all_dials() {
  std::string text = "Dials, with what they are drawn from:\n";
  for (std::size_t i = 0; i < kDialCount; ++i) {
    const DialInfo& about = info(static_cast<Dial>(i));
    text += fmt::format("  {:<18} {:>4} to {:<5}{}  {}\n", about.name, about.least, about.most,
                        about.is_fault ? "per mille" : "         ", about.meaning);
  }
  return text;
}

std::string bug_names() {
  std::string names;
  for (const std::string_view name : kBugNames)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  return names;
}

bool plant(std::string_view name) {
  const auto found = std::find(kBugNames.begin(), kBugNames.end(), name);
  if (found == kBugNames.end()) return false;
  planted_bug = static_cast<Bug>(found - kBugNames.begin());
  return true;
}

int wrong(std::string_view what) {
  fmt::print(stderr, "tcpmux-sim: {} (--help tells more)\n", what);
  return 2;
}

}  // namespace

std::expected<Options, int> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app("Runs shards of tcpmux in a simulated world, and looks for broken invariants.",
               "tcpmux-sim");
  std::string seeds;
  std::vector<std::string> dials;
  double minutes = 0;
  std::uint64_t seed = 1;
  auto* one = app.add_option("--seed", seed, "The world to run; with --minutes, the first of them");
  auto* range = app.add_option("--seeds", seeds, "A..B: the worlds from A to B")->excludes(one);
  app.add_option("--minutes", minutes, "Run worlds for so long (from a fresh seed, without --seed)")
      ->excludes(range)
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds, "The same in seconds")
      ->excludes(range)
      ->check(CLI::PositiveNumber);
  app.add_option("--dial", dials, "NAME=VALUE: turn a dial; may be given more than once");
  app.add_option("--json", options.json, "Write the summary to this file");
  app.add_flag("--trace", options.trace, "Print everything that happens");
  app.add_flag("--twice", options.twice, "Run each world twice and compare");
  app.add_flag("--quiet", options.quiet, "Say nothing: the exit code tells");
  app.add_flag("!--no-shrink", options.shrinks, "Do not look for the faults that a failure needs");
  if (kCanBePlanted) app.add_option("--plant", options.plant, "Plant a bug: " + bug_names());
  app.footer(all_dials() + "\n" + kExamples);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return std::unexpected(app.exit(error) == 0 ? 0 : 2);
  }
  options.first_seed = options.last_seed = seed;
  if (range->count() > 0 && !parse_range(seeds, options))
    return std::unexpected(wrong("--seeds wants A..B, as in 1..1000"));
  for (const std::string& dial : dials)
    if (!parse_dial(dial, options))
      return std::unexpected(wrong("no such dial, or not a value for it: " + dial));
  if (!options.plant.empty() && !plant(options.plant))
    return std::unexpected(wrong("no such bug: " + options.plant));
  if (minutes > 0)
    options.seconds = std::max<std::int64_t>(1, static_cast<std::int64_t>(minutes * 60));
  if (options.seconds > 0 && one->count() == 0) {
    std::random_device device;
    options.first_seed = (std::uint64_t{device()} << 16) ^ device();
  }
  return options;
}

}  // namespace tcpmux::sim
