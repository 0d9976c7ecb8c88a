// What one shard counts. Every accepted connection ends in exactly one of: handed_off (and not
// taken back afterwards), refused, helped, timed_out, peer_gone, closed_without_backend, passed on
// to another shard, passed on to the successor, or it is still open. What came from the process
// before us counts as inherited, not as accepted.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

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
  Counter passed_on;                           // given to the process that comes after us
  Counter inherited;                           // given to us by the process before us
  Counter taken_back;                          // sockets read back from a lane
  Counter closed_without_backend;  // told '+', and no backend was left before the deadline
  Counter shed;                    // refused at the descriptor limit, by the reserved descriptor
  Counter lane_full;               // the kernel had no room for a message where we saw some
};

struct NamedCounter {
  std::string_view name;
  Counter ShardCounters::* counter;
};
// All but `refused`, in the order in which they are shown.
inline constexpr std::array kNamedCounters = {
    NamedCounter{"accepted", &ShardCounters::accepted},
    NamedCounter{"handed_off", &ShardCounters::handed_off},
    NamedCounter{"messages", &ShardCounters::messages},
    NamedCounter{"helped", &ShardCounters::helped},
    NamedCounter{"timed_out", &ShardCounters::timed_out},
    NamedCounter{"peer_gone", &ShardCounters::peer_gone},
    NamedCounter{"passed", &ShardCounters::passed},
    NamedCounter{"passed_on", &ShardCounters::passed_on},
    NamedCounter{"inherited", &ShardCounters::inherited},
    NamedCounter{"taken_back", &ShardCounters::taken_back},
    NamedCounter{"closed_without_backend", &ShardCounters::closed_without_backend},
    NamedCounter{"shed", &ShardCounters::shed},
    NamedCounter{"lane_full", &ShardCounters::lane_full},
};
static_assert(sizeof(ShardCounters) == (kNamedCounters.size() + kRefusalCount) * sizeof(Counter),
              "every counter has a name");

// What one shard's counters, or the sum of several, were at one time.
struct CounterValues {
  std::array<std::uint64_t, kNamedCounters.size()> named{};
  std::array<std::uint64_t, kRefusalCount> refused{};

  void add(const ShardCounters& counters) {
    for (std::size_t i = 0; i < named.size(); ++i)
      named[i] += (counters.*kNamedCounters[i].counter).read();
    for (std::size_t i = 0; i < refused.size(); ++i)
      refused[i] += counters.refused[i].read();
  }
};

}  // namespace tcpmux
