#include "tools/load/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/clock.h"

namespace load {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view mode_name(Mode mode) {
  constexpr std::array<std::string_view, 4> kNames = {"closed", "open", "backlog", "hold"};
  return kNames[static_cast<std::size_t>(mode)];
}

double seconds_of(const Measured& measured) {
  return static_cast<double>(measured.elapsed_ns) / static_cast<double>(tcpmux::kNanosPerSecond);
}

double per_second(std::uint64_t count, const Measured& measured) {
  return measured.elapsed_ns <= 0 ? 0 : static_cast<double>(count) / seconds_of(measured);
}

// To three digits behind the point: nanoseconds of microseconds.
double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

double us(std::int64_t time_ns) {
  return rounded(static_cast<double>(time_ns) / 1000);
}

// Of those that completed; where none did, of those that were begun.
double per_connection(double total, const Measured& measured) {
  const std::uint64_t completed = measured.tally.completed();
  const std::uint64_t count = completed > 0 ? completed : measured.tally.started;
  return total / static_cast<double>(std::max<std::uint64_t>(count, 1));
}

double us_per_connection(std::int64_t total_ns, const Measured& measured) {
  return rounded(per_connection(static_cast<double>(total_ns) / 1000, measured));
}

// --- JSON ---

Json json_of(const Histogram& histogram) {
  const bool empty = histogram.count() == 0;
  const auto value = [&](double number) { return empty ? Json(nullptr) : Json(number); };
  return {{"count", histogram.count()},
          {"min", value(us(histogram.min()))},
          {"mean", value(rounded(histogram.mean() / 1000))},
          {"p50", value(us(histogram.percentile(0.5)))},
          {"p90", value(us(histogram.percentile(0.9)))},
          {"p99", value(us(histogram.percentile(0.99)))},
          {"p99_9", value(us(histogram.percentile(0.999)))},
          {"max", value(us(histogram.max()))}};
}

Json json_of_failures(const Tally& tally) {
  Json failures = Json::object();
  for (std::size_t i = kFirstFailure; i < kFailuresEnd; ++i)
    failures[std::string(kOutcomeNames[i])] = tally.outcomes[i];
  return failures;
}

Json json_of_kinds(const Options& options, const Tally& tally) {
  Json kinds = Json::object();
  for (std::size_t i = 0; i < kKindCount; ++i)
    if (options.kinds.has(static_cast<Kind>(i)))
      kinds[std::string(kKindNames[i])] = {{"completed", tally.kinds[i].completed},
                                           {"failed", tally.kinds[i].failed}};
  return kinds;
}

Json json_of_session(const Measured& measured) {
  const Tally& tally = measured.tally;
  const auto rate = [&](std::uint64_t count) {
    return tally.messages == 0 ? Json(nullptr) : Json(rounded(per_second(count, measured)));
  };
  return {{"messages", tally.messages},
          {"bytes_echoed", tally.bytes_echoed},
          {"messages_per_second", rate(tally.messages)},
          {"bytes_per_second", rate(tally.bytes_echoed)},
          {"round_trip_us", json_of(tally.round_trip)}};
}

Json json_of_processes(const Options& options, const Measured& measured) {
  Json processes = Json::array();
  for (std::size_t i = 0; i < measured.costs.size(); ++i) {
    const ProcessCost& cost = measured.costs[i];
    processes.push_back({{"pid", options.cpu_of[i]},
                         {"name", process_name(options.cpu_of[i])},
                         {"cpu_us_per_connection", us_per_connection(cost.cpu_ns, measured)},
                         {"user_us_per_connection", us_per_connection(cost.user_ns, measured)},
                         {"wakeups_per_connection",
                          rounded(per_connection(static_cast<double>(cost.wakeups), measured))}});
  }
  return processes;
}

// --- text ---

std::string plural(std::uint64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string text_of_how(const Options& options) {
  switch (options.mode) {
    case Mode::kClosed:
      return fmt::format("closed loop, {} at once", options.connections);
    case Mode::kOpen:
      return fmt::format("open loop, {} a second, at most {} at once", options.rate,
                         options.connections);
    case Mode::kBacklog:
      return fmt::format("backlog of {}", options.connections);
    case Mode::kHold:
      return fmt::format("{} held", options.connections);
  }
  return "";
}

std::string text_of_failures(const Tally& tally) {
  if (tally.failed() == 0) return "  no failures\n";
  std::string text = fmt::format("  {} FAILED:", tally.failed());
  for (std::size_t i = kFirstFailure; i < kFailuresEnd; ++i)
    if (tally.outcomes[i] > 0) text += fmt::format("  {} {}", kOutcomeNames[i], tally.outcomes[i]);
  text += '\n';
  for (const auto& [reply, count] : tally.denials)
    text += fmt::format("    {} times: {}\n", count, reply);
  return text;
}

std::string text_of_kinds(const Options& options, const Tally& tally) {
  std::string text;
  for (std::size_t i = 0; i < kKindCount; ++i)
    if (const auto kind = static_cast<Kind>(i);
        options.kinds.has(kind) && !options.kinds.has_only(kind))
      text += fmt::format("  {:<10} {} completed, {} failed\n", kKindNames[i],
                          tally.kinds[i].completed, tally.kinds[i].failed);
  return text;
}

std::string text_of(std::string_view name, const Histogram& histogram) {
  if (histogram.count() == 0) return "";
  return fmt::format("  {:<10}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}\n", name,
                     us(histogram.percentile(0.5)), us(histogram.percentile(0.9)),
                     us(histogram.percentile(0.99)), us(histogram.percentile(0.999)),
                     us(histogram.max()));
}

std::string text_of_times(const Tally& tally) {
  const std::string rows = text_of("connect", tally.connect) + text_of("reply", tally.reply) +
                           text_of("first byte", tally.first_byte) +
                           text_of("round trip", tally.round_trip);
  if (rows.empty()) return "";
  return fmt::format("  {:<10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "us", "p50", "p90", "p99", "p99.9",
                     "max") +
         rows;
}

std::string text_of_costs(const Options& options, const Measured& measured) {
  std::string text = fmt::format("  CPU per connection: {:.1f} us of this client\n",
                                 us_per_connection(measured.own_cpu_ns, measured));
  for (std::size_t i = 0; i < measured.costs.size(); ++i) {
    const ProcessCost& cost = measured.costs[i];
    text += fmt::format(
        "    {:.1f} us of {} ({}), {:.1f} of them outside the kernel; {:.2f} wake-ups\n",
        us_per_connection(cost.cpu_ns, measured), process_name(options.cpu_of[i]),
        options.cpu_of[i], us_per_connection(cost.user_ns, measured),
        per_connection(static_cast<double>(cost.wakeups), measured));
  }
  return text;
}

}  // namespace

std::string to_json(const Options& options, std::string_view engine, const Measured& measured) {
  const Tally& tally = measured.tally;
  const Json json = {
      {"target", tcpmux::to_string(options.target)},
      {"mode", mode_name(options.mode)},
      {"engine", engine},
      {"threads", options.threads},
      {"seconds", seconds_of(measured)},
      {"connections_at_once", options.connections},
      {"rate", options.rate > 0 ? Json(options.rate) : Json(nullptr)},
      {"started", tally.started},
      {"accepted", tally.accepted},
      {"completed", tally.completed()},
      {"per_second", rounded(per_second(tally.completed(), measured))},
      {"failures", json_of_failures(tally)},
      {"denials", Json(tally.denials)},
      {"kinds", json_of_kinds(options, tally)},
      {"latency_us",
       {{"connect", json_of(tally.connect)},
        {"reply", json_of(tally.reply)},
        {"first_byte", json_of(tally.first_byte)}}},
      {"session", json_of_session(measured)},
      {"client", {{"cpu_us_per_connection", us_per_connection(measured.own_cpu_ns, measured)}}},
      {"processes", json_of_processes(options, measured)}};
  // A reply may hold any bytes.
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_text(const Options& options, std::string_view engine, const Measured& measured) {
  const Tally& tally = measured.tally;
  std::string text =
      fmt::format("{}: {}, {}, {}, {}\n", tcpmux::to_string(options.target), options.kinds.text(),
                  text_of_how(options), engine, plural(options.threads, "thread"));
  text += fmt::format("  {} completed in {:.3f} s: {:.0f} a second\n",
                      plural(tally.completed(), "connection"), seconds_of(measured),
                      per_second(tally.completed(), measured));
  text += text_of_failures(tally) + text_of_kinds(options, tally) + text_of_times(tally);
  if (tally.messages > 0)
    text += fmt::format("  {}: {:.0f} a second, {:.1f} MB/s each way\n",
                        plural(tally.messages, "message"), per_second(tally.messages, measured),
                        per_second(tally.bytes_echoed, measured) / 1e6);
  return text + text_of_costs(options, measured);
}

}  // namespace load
