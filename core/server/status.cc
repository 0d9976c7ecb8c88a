#include "core/server/status.h"

#include <fmt/chrono.h>
#include <fmt/core.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/base/clock.h"
#include "core/server/shard_counters.h"

namespace tcpmux {
namespace {

using nlohmann::json;

double seconds(std::int64_t ns) {
  return static_cast<double>(ns) / static_cast<double>(kNanosPerSecond);
}

// "2026-11-22T16:14:57Z" for a time of the monotonic clock.
std::string utc(std::int64_t monotonic) {
  const std::int64_t real_ns = realtime_ns() - (monotonic_ns() - monotonic);
  const auto time = static_cast<std::time_t>(real_ns / kNanosPerSecond);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(time));
}

json to_json(const CounterValues& values) {
  json counters = json::object();
  for (std::size_t i = 0; i < values.named.size(); ++i)
    counters[std::string(kNamedCounters[i].name)] = values.named[i];
  json& refused = counters["refused"] = json::object();
  for (std::size_t i = 0; i < values.refused.size(); ++i)
    refused[std::string(refusal_word(static_cast<Refusal>(i)))] = values.refused[i];
  return counters;
}

json to_json(const BackendStatus& backend) {
  return {{"id", backend.id},
          {"pid", backend.pid},
          {"uid", backend.uid},
          {"user", backend.user},
          {"names", backend.names},
          {"lanes", backend.lanes},
          {"window", backend.window},
          {"batch", backend.batch},
          {"draining", backend.draining},
          {"since", utc(backend.connected_ns)},
          {"seconds", seconds(monotonic_ns() - backend.connected_ns)}};
}

// The descriptors that are open now, less the one with which they are counted; null where /proc is
// not there.
json open_descriptors() {
  std::error_code error;
  std::filesystem::directory_iterator at("/proc/self/fd", error);
  std::int64_t count = -1;
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error))
    ++count;
  return error ? json(nullptr) : json(count);
}

}  // namespace

json status_of(const StatusSources& sources) {
  CounterValues sum;
  json by_shard = json::array();
  for (std::uint32_t i = 0; i < sources.shards.size(); ++i) {
    CounterValues one;
    one.add(sources.shards.counters(i));
    sum.add(sources.shards.counters(i));
    by_shard.push_back(to_json(one));
  }
  json listening = json::array();
  for (const Endpoint& endpoint : sources.listening())
    listening.push_back(to_string(endpoint));
  json backends = json::array();
  for (const BackendStatus& backend : sources.backends())
    backends.push_back(to_json(backend));
  return {{"ok", true},
          {"version", TCPMUX_VERSION},
          {"pid", ::getpid()},
          {"state", sources.state()},
          {"engine", sources.engine},
          {"engine_remark", sources.engine_remark},
          {"started", utc(sources.started_ns)},
          {"uptime_seconds", seconds(monotonic_ns() - sources.started_ns)},
          {"configuration", sources.configuration ? json(*sources.configuration) : json(nullptr)},
          {"shards", sources.shards.size()},
          {"listening", std::move(listening)},
          {"registry", sources.registry},
          {"control", sources.control},
          {"descriptors", {{"limit", sources.descriptors}, {"used", open_descriptors()}}},
          {"counters", to_json(sum)},
          {"counters_by_shard", std::move(by_shard)},
          {"backends", std::move(backends)}};
}

}  // namespace tcpmux
