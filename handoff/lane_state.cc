#include "handoff/lane_state.h"

#include <nlohmann/json.hpp>

namespace tcpmux::handoff {

using nlohmann::json;

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

std::unique_ptr<Lane> lane_from(const json& state, std::vector<ServiceId> services, OwnFd ours,
                                OwnFd theirs) {
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
  std::vector<Lane::Message> messages;
  for (const json& message : state.at("messages"))
    messages.push_back({.bytes = message.at(0), .sockets = message.at(1)});
  lane->restore(messages, state.at("moved_at_ns"));
  lane->broken = state.at("broken");
  lane->stalled = state.at("stalled");
  lane->stalled_at_ns = state.at("stalled_at_ns");
  lane->risk_one = state.at("risk_one");
  lane->on_probation = state.at("on_probation");
  return lane;
}

}  // namespace tcpmux::handoff
