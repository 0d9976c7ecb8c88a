#include "handoff/lane_state.h"

#include <nlohmann/json.hpp>

namespace tcpmux::handoff {

using nlohmann::json;

namespace {

constexpr std::int64_t kWindowMax = std::int64_t{1} << 20;

Status check(const json& state, const std::vector<ServiceId>& services,
             const std::vector<Lane::Message>& messages) {
  const auto within = [&](const char* name, std::int64_t least, std::int64_t most) {
    const std::int64_t value = state.at(name);
    return value >= least && value <= most;
  };
  if (services.empty()) return fail("a lane serves nothing");
  if (!within("window", 1, kWindowMax) || !within("batch", 1, kSocketsPerMessageMax) ||
      !within("lane_kind", 0, static_cast<int>(LaneKind::kRawStream)))
    return fail("a lane's window, batch or kind cannot be");
  // One more for a probe.
  if (messages.size() > state.at("window").get<std::size_t>() + 1)
    return fail("more messages wait in a lane than its window has places");
  return {};
}

}  // namespace

json lane_state(const Lane& lane) {
  json messages = json::array();
  for (const Lane::Message& message : lane.waiting())
    messages.push_back({message.bytes, message.sockets});
  return {{"backend", lane.setup.backend},
          {"shard", lane.shard},
          {"lane_kind", static_cast<int>(lane.setup.kind)},
          {"without_addresses", lane.setup.without_addresses},
          {"window", lane.setup.window},
          {"batch", lane.setup.batch},
          {"messages", std::move(messages)},
          {"moved_at_ns", lane.moved_at_ns()},
          {"broken", lane.broken},
          {"stalled", lane.stalled},
          {"stalled_at_ns", lane.stalled_at_ns},
          {"risk_one", lane.risk_one},
          {"on_probation", lane.on_probation}};
}

Result<std::unique_ptr<Lane>> lane_from(const json& state, std::vector<ServiceId> services,
                                        OwnFd ours, OwnFd theirs) {
  std::vector<Lane::Message> messages;
  for (const json& message : state.at("messages"))
    messages.push_back({.bytes = message.at(0), .sockets = message.at(1)});
  if (Status good = check(state, services, messages); !good) return std::unexpected(good.error());
  auto lane = std::make_unique<Lane>(
      Lane::Setup{.ours = std::move(ours),
                  .copy_of_theirs = std::move(theirs),
                  .backend = state.at("backend"),
                  .services = std::move(services),
                  .kind = static_cast<LaneKind>(state.at("lane_kind").get<int>()),
                  .without_addresses = state.at("without_addresses"),
                  .window = state.at("window"),
                  .batch = state.at("batch")});
  lane->shard = state.at("shard");
  lane->restore(messages, state.at("moved_at_ns"));
  lane->broken = state.at("broken");
  lane->stalled = state.at("stalled");
  lane->stalled_at_ns = state.at("stalled_at_ns");
  lane->risk_one = state.at("risk_one");
  lane->on_probation = state.at("on_probation");
  return lane;
}

}  // namespace tcpmux::handoff
