// A lane as words and numbers, for a process that takes it over. Its two ends travel beside it.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "core/base/result.h"
#include "handoff/lane.h"

namespace tcpmux::handoff {

// All of the lane but its ends and its services, whose ids are of one process.
nlohmann::json lane_state(const Lane& lane);

// Throws nlohmann::json::exception where `state` is not what lane_state() makes; an error where it
// tells of a lane that cannot be.
Result<std::unique_ptr<Lane>> lane_from(const nlohmann::json& state,
                                        std::vector<ServiceId> services, OwnFd ours, OwnFd theirs);

}  // namespace tcpmux::handoff
