// The socket pair that a lane is made of.
#pragma once

#include <cstdint>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

struct LaneSockets {
  OwnFd ours;
  OwnFd theirs;
};
Result<LaneSockets> make_lane_sockets(LaneKind kind);

// Makes the send buffer of `fd` large enough for `window`, or as large as we may; gives the window
// that it has room for: at least 1, at most `window`.
Result<std::uint32_t> fit_window(int fd, std::uint32_t window);

}  // namespace tcpmux::handoff
