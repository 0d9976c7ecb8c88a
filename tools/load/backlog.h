// Capacity: connections with their lines sent wait in the backlog of a stopped server; it is let
// run, and the time until the last reply is taken.
//
// No engine of ours takes part. The clients may share a core with the backend, and what they do
// while the server runs would be measured as the server's slowness: so that there is a reply is
// seen once and by the clock, the server never has to wake us, and replies are read and judged when
// all are there.
#pragma once

#include <atomic>

#include "core/base/result.h"
#include "tools/load/dial.h"
#include "tools/load/measured.h"
#include "tools/load/script.h"

namespace load {

tcpmux::Result<Measured> run_backlog(const Options& options, const Script& script,
                                     const Dialer& dialer, const std::atomic<bool>& stop);

}  // namespace load
