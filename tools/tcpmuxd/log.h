// The daemon's log: lines on standard error, written by a thread of spdlog's.
#pragma once

#include "core/server/config.h"
#include "core/server/event_loop.h"

namespace tcpmux {

void start_logging(LogLevel level);
void set_log_level(LogLevel level);
// Once a second, where lines were dropped, how many.
void say_dropped_lines(EventLoop& loop);

}  // namespace tcpmux
