// What one shard counts. Every accepted connection ends in exactly one of: handed_off (and not
// taken back afterwards), refused, helped, timed_out, peer_gone, closed_without_backend, passed on
// to another shard, or it is still open.
#pragma once

#include <array>

#include "core/base/counters.h"
#include "core/mux/reply.h"

namespace tcpmux {

struct ShardCounters {
  Counter accepted;
  Counter handed_off;                          // sockets that were put into a lane
  Counter messages;                            // that carried them
  std::array<Counter, kRefusalCount> refused;  // by Refusal
  Counter helped;                              // HELP was answered
  Counter timed_out;                           // the handshake's deadline passed
  Counter peer_gone;                           // the client left before the end of the handshake
  Counter passed;                              // given to a shard that has a lane
  Counter taken_back;                          // sockets read back from a lane
  Counter closed_without_backend;  // told '+', and no backend was left before the deadline
  Counter shed;                    // refused at the descriptor limit, by the reserved descriptor
  Counter lane_full;               // the kernel had no room for a message where we saw some
};

}  // namespace tcpmux
