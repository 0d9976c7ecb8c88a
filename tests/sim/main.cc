// tcpmux-sim: runs simulated worlds, one for each seed, until an invariant breaks or all have run.
// A world that breaks one ends the process (failure.cc).
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>

#include "tests/sim/context.h"
#include "tests/sim/failure.h"
#include "tests/sim/options.h"
#include "tests/sim/world.h"

namespace tcpmux::sim {
namespace {

// A world takes far less; one that does not come back has a turn without an end.
constexpr unsigned kWorldSecondsMax = 60;

struct Totals {
  WorldResult sum;
  std::uint64_t worlds = 0;
  double seconds = 0;

  void add(const WorldResult& one) {
    ++worlds;
    sum.connections += one.connections;
    sum.received += one.received;
    sum.taken_back += one.taken_back;
    sum.passed += one.passed;
    sum.passed_on += one.passed_on;
    sum.upgrades += one.upgrades;
    sum.refused += one.refused;
    sum.closed_without_backend += one.closed_without_backend;
    sum.turns += one.turns;
    sum.hash = sum.hash * 31 + one.hash;
    sum.forced += one.forced;
    for (std::size_t i = 0; i < kDialCount; ++i)
      sum.injected[i] += one.injected[i];
  }
  double rate() const { return static_cast<double>(sum.connections) / std::max(seconds, 1e-9); }
};

WorldResult run_world(const Options& options, std::uint64_t seed) {
  ::alarm(kWorldSecondsMax);
  Context context(seed, options.trace);
  for (const auto& [dial, value] : options.dials)
    context.dials.set(dial, value);
  running = &context;
  return World(context).run();
}

void run_seed(const Options& options, std::uint64_t seed, Totals& totals) {
  const WorldResult result = run_world(options, seed);
  if (options.twice) {
    const std::uint64_t again = run_world(options, seed).hash;
    if (again != result.hash) {
      fmt::print(stderr, "seed {}: not the same twice: {:016x}, then {:016x}\n", seed, result.hash,
                 again);
      ::_exit(1);
    }
  }
  totals.add(result);
}

Totals run_all(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  Totals totals;
  if (options.seconds > 0) {
    if (!options.quiet) fmt::print("seeds from {} on\n", options.first_seed);
    std::fflush(stdout);
    for (std::uint64_t seed = options.first_seed; seconds() < static_cast<double>(options.seconds);
         ++seed)
      run_seed(options, seed, totals);
  } else {
    for (std::uint64_t seed = options.first_seed;; ++seed) {
      run_seed(options, seed, totals);
      if (seed == options.last_seed) break;
    }
  }
  totals.seconds = seconds();
  return totals;
}

void print(const Totals& totals) {
  const WorldResult& sum = totals.sum;
  fmt::print("{} worlds, {} connections in {:.1f} s ({:.0f} a second); no invariant broke\n",
             totals.worlds, sum.connections, totals.seconds, totals.rate());
  fmt::print(
      "received {}, refused {}, passed {}, in {} upgrades passed on {}, taken back {}, closed "
      "without a "
      "backend {}; {} turns; {} worlds were made to end; hash {:016x}\n",
      sum.received, sum.refused, sum.passed, sum.upgrades, sum.passed_on, sum.taken_back,
      sum.closed_without_backend, sum.turns, sum.forced, sum.hash);
  std::string faults;
  for (std::size_t i = 0; i < kDialCount; ++i)
    if (info(static_cast<Dial>(i)).is_fault)
      faults += fmt::format(" {} {}", info(static_cast<Dial>(i)).name, sum.injected[i]);
  fmt::print("faults:{}\n", faults);
}

bool write_json(const Totals& totals, const Options& options) {
  const WorldResult& sum = totals.sum;
  std::string faults;
  for (std::size_t i = 0; i < kDialCount; ++i)
    if (info(static_cast<Dial>(i)).is_fault)
      faults += fmt::format("{}\"{}\": {}", faults.empty() ? "" : ", ",
                            info(static_cast<Dial>(i)).name, sum.injected[i]);
  std::ofstream file(options.json);
  file << fmt::format(
      "{{\"first_seed\": {}, \"worlds\": {}, \"connections\": {}, \"seconds\": {:.3f}, "
      "\"connections_per_second\": {:.0f}, \"received\": {}, \"refused\": {}, \"passed\": {}, "
      "\"upgrades\": {}, \"passed_on\": {}, \"taken_back\": {}, \"closed_without_backend\": {}, "
      "\"turns\": {}, \"forced_ends\": {}, "
      "\"faults\": {{{}}}}}\n",
      options.first_seed, totals.worlds, sum.connections, totals.seconds, totals.rate(),
      sum.received, sum.refused, sum.passed, sum.upgrades, sum.passed_on, sum.taken_back,
      sum.closed_without_backend, sum.turns, sum.forced, faults);
  return file.good();
}

void died(int signal) {
  std::signal(signal, SIG_DFL);
  allocation_forbidden = false;
  broken(signal == SIGALRM ? 6 : 0,
         signal == SIGALRM ? "a turn does not end" : fmt::format("signal {}", signal));
}

void remember(const Options& options, const char* program) {
  replay.program = program;
  for (const auto& [dial, value] : options.dials)
    replay.options += fmt::format(" --dial {}={}", info(dial).name, value);
  if (!options.plant.empty()) replay.options += " --plant " + options.plant;
  replay.quiet = options.quiet;
  replay.shrinks = options.shrinks && !options.trace;
  for (const int signal : {SIGALRM, SIGSEGV, SIGBUS, SIGFPE})
    std::signal(signal, died);
}

}  // namespace
}  // namespace tcpmux::sim

int main(int argc, char** argv) {
  using namespace tcpmux::sim;
  const std::expected<Options, int> options = parse_options(argc, argv);
  if (!options) return options.error();
  remember(*options, argv[0]);
  spdlog::set_level(spdlog::level::off);  // the registry's; the trace says more
  const Totals totals = run_all(*options);
  if (!options->quiet) print(totals);
  if (!options->json.empty() && !write_json(totals, *options)) {
    fmt::print(stderr, "tcpmux-sim: {} cannot be written\n", options->json);
    return 2;
  }
  return 0;
}
