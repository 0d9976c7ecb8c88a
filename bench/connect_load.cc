// connect_load: makes connections to a TCPMUX server on 127.0.0.1, checks what it replies, and says
// what they cost, as JSON.
//
//   steady      N connections at once; each that ends is followed by the next
//   --backlog   capacity: N connections, with their lines sent, wait before a stopped server; it is
//               continued, and the time until the last reply is taken
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/clients.h"
#include "bench/process_cost.h"
#include "core/base/clock.h"

namespace bench {
namespace {

// Descriptors besides the clients'.
constexpr std::uint32_t kOtherDescriptors = 64;
// A server that has said its last reply is still to hand over and to close.
constexpr std::int64_t kSettle_ns = 100 * tcpmux::kNanosPerMilli;

struct Options {
  ClientOptions clients;
  std::string name = "discard";
  std::string message;
  std::uint64_t count = 0;
  double seconds = 0;
  double warm_up_seconds = 0;
  std::int64_t timeout_ms = 10'000;
  pid_t backlog_of = 0;
  std::vector<pid_t> cpu_of;
};

struct Measured {
  std::int64_t elapsed_ns = 0;
  std::int64_t own_cpu_ns = 0;
  std::uint64_t served = 0;
  std::vector<ProcessCost> costs;
};

std::vector<ProcessCost> costs_of(const std::vector<pid_t>& processes) {
  std::vector<ProcessCost> costs;
  for (const pid_t process : processes)
    costs.push_back(process_cost(process));
  return costs;
}

void pause_for(std::int64_t duration_ns) {
  const timespec pause{.tv_sec = duration_ns / tcpmux::kNanosPerSecond,
                       .tv_nsec = duration_ns % tcpmux::kNanosPerSecond};
  ::nanosleep(&pause, nullptr);
}

std::int64_t own_cpu_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * tcpmux::kNanosPerSecond + used.tv_nsec;
}

// Takes the costs before and after what `work` does; `work` gives the time at which it was done.
template <class Work>
Measured measure(const Options& options, const Clients& clients, Work&& work) {
  const std::vector<ProcessCost> before = costs_of(options.cpu_of);
  const std::uint64_t served_before = clients.count(Outcome::kServed);
  const std::int64_t own_before_ns = own_cpu_ns();
  const std::int64_t start_ns = tcpmux::monotonic_ns();
  Measured measured;
  measured.elapsed_ns = work() - start_ns;
  measured.own_cpu_ns = own_cpu_ns() - own_before_ns;
  measured.served = clients.count(Outcome::kServed) - served_before;
  pause_for(kSettle_ns);
  measured.costs = costs_of(options.cpu_of);
  for (std::size_t i = 0; i < before.size(); ++i)
    measured.costs[i] = measured.costs[i] - before[i];
  return measured;
}

std::int64_t after_seconds(double seconds) {
  return tcpmux::monotonic_ns() +
         static_cast<std::int64_t>(seconds * static_cast<double>(tcpmux::kNanosPerSecond));
}

Measured run_steady(const Options& options, Clients& clients) {
  if (options.warm_up_seconds > 0)
    clients.run(UINT64_MAX / 2, after_seconds(options.warm_up_seconds));
  return measure(options, clients, [&] {
    if (options.count > 0) {
      clients.run(options.count, tcpmux::kNever_ns);
    } else {
      clients.run(UINT64_MAX / 2, after_seconds(options.seconds));
    }
    return tcpmux::monotonic_ns();
  });
}

Measured run_backlog(const Options& options, Clients& clients) {
  const pid_t server = options.backlog_of;
  if (!stop_process(server)) {
    ::kill(server, SIGCONT);
    fmt::print(stderr, "process {} cannot be stopped\n", server);
    std::exit(2);
  }
  clients.queue_up();
  return measure(options, clients, [&] {
    ::kill(server, SIGCONT);
    const std::int64_t last_ns = clients.wait_for_replies();
    clients.read_replies();
    return last_ns;
  });
}

std::string to_json(const Options& options, const Clients& clients, const Measured& measured) {
  const double seconds =
      static_cast<double>(measured.elapsed_ns) / static_cast<double>(tcpmux::kNanosPerSecond);
  const double served = static_cast<double>(std::max<std::uint64_t>(measured.served, 1));
  const auto each_us = [&](std::int64_t total_ns) {
    return static_cast<double>(total_ns) / 1000 / served;
  };
  std::string failures;
  for (std::size_t i = 1; i < kOutcomeCount; ++i) {
    const auto outcome = static_cast<Outcome>(i);
    failures +=
        fmt::format("{}\"{}\": {}", i == 1 ? "" : ", ", to_string(outcome), clients.count(outcome));
  }
  std::string processes;
  for (std::size_t i = 0; i < measured.costs.size(); ++i)
    processes += fmt::format(
        "{}{{\"pid\": {}, \"cpu_us_per_connection\": {:.3f}, \"wakeups_per_connection\": {:.4f}}}",
        i == 0 ? "" : ", ", options.cpu_of[i], each_us(measured.costs[i].cpu_ns),
        static_cast<double>(measured.costs[i].wakeups) / served);
  return fmt::format(
      "{{\"mode\": \"{}\", \"at_once\": {}, \"connections\": {}, \"seconds\": {:.6f}, "
      "\"per_second\": {:.1f}, \"failures\": {{{}}}, \"client_cpu_us_per_connection\": {:.3f}, "
      "\"processes\": [{}]}}",
      options.backlog_of > 0 ? "backlog" : "steady", options.clients.at_once, measured.served,
      seconds, static_cast<double>(measured.served) / seconds, failures,
      each_us(measured.own_cpu_ns), processes);
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--port", options.clients.port, "The server's port on 127.0.0.1")->required();
  app.add_option("--connections", options.clients.at_once, "How many at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 16'000));
  app.add_option("--name", options.name, "The service to ask for")->capture_default_str();
  app.add_option("--message", options.message, "What the server says behind '+'");
  app.add_option("--sources", options.clients.sources, "Source addresses, from 127.0.0.2 on")
      ->capture_default_str()
      ->check(CLI::Range(1, 250));
  app.add_option("--timeout-ms", options.timeout_ms, "For one connection")
      ->capture_default_str()
      ->check(CLI::Range(1, 3'600'000));
  app.add_option("--warm-up", options.warm_up_seconds, "Seconds before the measurement begins");
  app.add_option("--cpu-of", options.cpu_of, "A process whose cost is to be told (repeatable)");
  CLI::Option* const count =
      app.add_option("--count", options.count, "End after so many connections");
  CLI::Option* const seconds = app.add_option("--seconds", options.seconds, "End after so long");
  CLI::Option* const backlog = app.add_option("--backlog", options.backlog_of,
                                              "The server's process, to be stopped and continued");
  count->excludes(seconds)->excludes(backlog);
  seconds->excludes(backlog);
}

// Every client has a descriptor of its own.
bool allow_descriptors(std::uint32_t clients) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, clients + kOtherDescriptors);
  return limit.rlim_cur <= limit.rlim_max && ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Connections to a TCPMUX server on 127.0.0.1, counted and checked");
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.count == 0 && options.seconds <= 0 && options.backlog_of == 0) {
    fmt::print(stderr, "one of --count, --seconds and --backlog is needed\n");
    return 2;
  }
  if (!allow_descriptors(options.clients.at_once)) {
    fmt::print(stderr, "too few descriptors for {} connections (ulimit -n)\n",
               options.clients.at_once);
    return 2;
  }
  options.clients.line = options.name + "\r\n";
  options.clients.reply = "+" + options.message + "\r\n";
  options.clients.timeout_ns = options.timeout_ms * tcpmux::kNanosPerMilli;
  Clients clients(options.clients);
  const Measured measured =
      options.backlog_of > 0 ? run_backlog(options, clients) : run_steady(options, clients);
  fmt::print("{}\n", to_json(options, clients, measured));
  return clients.finished() == clients.count(Outcome::kServed) ? 0 : 1;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::run(argc, argv);
}
