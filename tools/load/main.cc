// tcpmux-load: makes connections to a TCPMUX server, checks every byte that comes back, and tells
// how many there were, how long they took, and what they cost. This file is the map of the program.
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdio>

#include "core/io/probe.h"
#include "tools/load/backlog.h"
#include "tools/load/crew.h"
#include "tools/load/options.h"
#include "tools/load/report.h"

namespace load {
namespace {

// Descriptors besides the connections'.
constexpr rlim_t kOtherDescriptors = 64;

std::atomic<bool> stop_wanted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "set by a signal");

// The first SIGINT or SIGTERM lets connections finish; a second one ends us.
void stop_on_signals() {
  struct sigaction action{};
  action.sa_handler = [](int) { stop_wanted.store(true, std::memory_order_relaxed); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

tcpmux::Status allow_descriptors(std::uint32_t connections) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return tcpmux::fail_errno("getrlimit");
  const rlim_t wanted = connections + kOtherDescriptors;
  if (limit.rlim_cur >= wanted) return {};
  if (limit.rlim_max < wanted)
    return tcpmux::fail(
        fmt::format("{} connections need {} descriptors, and {} are allowed: "
                    "give fewer --connections, or raise the limit (ulimit -Hn)",
                    connections, wanted, limit.rlim_max));
  limit.rlim_cur = wanted;
  if (::setrlimit(RLIMIT_NOFILE, &limit) < 0) return tcpmux::fail_errno("setrlimit");
  return {};
}

tcpmux::Status pin_to(const std::vector<int>& cores) {
  if (cores.empty()) return {};
  for (const int core : cores) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(core), &one);
    if (::sched_setaffinity(0, sizeof one, &one) < 0)
      return tcpmux::fail(fmt::format("--pin: there is no core {} for us", core));
  }
  cpu_set_t all;
  CPU_ZERO(&all);
  for (const int core : cores)
    CPU_SET(static_cast<std::size_t>(core), &all);
  if (::sched_setaffinity(0, sizeof all, &all) < 0) return tcpmux::fail_errno("--pin");
  return {};
}

Engine choose_engine(const Options& options) {
  // A backlog is watched with epoll, for reasons of its own.
  if (options.mode == Mode::kBacklog) return Engine::kEpoll;
  if (options.engine != Engine::kAuto) return options.engine;
  const auto refusal = tcpmux::why_not_uring();
  if (!refusal) return Engine::kUring;
  fmt::print(stderr, "tcpmux-load: epoll is used, because io_uring is not to be had: {}\n",
             refusal->message);
  return Engine::kEpoll;
}

bool wants_no_delay(const Options& options) {
  return options.direct || options.kinds.has(Kind::kSession) || options.kinds.has(Kind::kEarly) ||
         options.kinds.has(Kind::kTrickle);
}

tcpmux::Result<Measured> measure(const Options& options, Engine engine) {
  const Script script({.service = options.service,
                       .expect = options.expect,
                       .messages = options.messages,
                       .message_bytes = options.bytes,
                       .direct = options.direct,
                       .hold = options.mode == Mode::kHold});
  const Dialer dialer({.target = options.target,
                       .source_addresses = options.source_addresses,
                       .reset = options.reset,
                       .no_delay = wants_no_delay(options)});
  if (options.mode == Mode::kBacklog) return run_backlog(options, script, dialer, stop_wanted);
  return Crew(options, engine, script, dialer, stop_wanted).run();
}

int complain(const tcpmux::Error& error) {
  fmt::print(stderr, "tcpmux-load: {}\n", error.message);
  return kExitCannotRun;
}

int run(int argc, char** argv) {
  const ParsedOptions parsed = parse_options(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  const Options& options = parsed.options;
  if (const auto allowed = allow_descriptors(options.connections); !allowed)
    return complain(allowed.error());
  if (const auto pinned = pin_to(options.pin); !pinned) return complain(pinned.error());
  stop_on_signals();
  const Engine engine = choose_engine(options);
  const tcpmux::Result<Measured> measured = measure(options, engine);
  if (!measured) return complain(measured.error());
  const char* const engine_name = engine == Engine::kUring ? "io_uring" : "epoll";
  const auto report = options.json ? to_json : to_text;
  fmt::print("{}{}", report(options, engine_name, *measured), options.json ? "\n" : "");
  return measured->tally.failed() == 0 ? 0 : kExitFailures;
}

}  // namespace
}  // namespace load

int main(int argc, char** argv) {
  return load::run(argc, argv);
}
