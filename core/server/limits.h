// Descriptors are a budget that is divided before anything is opened, so that the daemon sheds load
// in an orderly way instead of failing wherever the limit happens to be met.
#pragma once

#include <cstdint>

#include "core/base/result.h"

namespace tcpmux {

// RLIMIT_NOFILE, after the soft limit was raised to the hard one.
Result<std::uint32_t> raise_descriptor_limit();

struct Limits {
  std::uint32_t descriptors = 0;              // all
  std::uint32_t descriptors_used = 0;         // by all that follows, at most
  std::uint32_t connections_per_shard = 0;    // slots for newcomers
  std::uint32_t busy_per_shard = 0;           // slots in which newcomers are told "-busy"
  std::uint32_t taken_back_per_shard = 0;     // slots for what comes back from lanes
  std::uint32_t backend_descriptors = 0;      // registry connections and lanes
  std::uint16_t sockets_per_message_max = 1;  // so that one message always fits what is kept free
};

// Divides `descriptors` among `shards` with `listeners` each. An error when not even a small
// service fits, saying how many are needed.
Result<Limits> divide_descriptors(std::uint32_t descriptors, std::uint32_t shards,
                                  std::uint32_t listeners, std::uint32_t connections_wanted);

// Makes the kernel's table of descriptors large enough for `count` at once. It is doubled where it
// is too small, and in a process with threads each doubling waits for an RCU grace period: 4 to 20
// ms with the shard asleep in the middle of a burst (Linux 6.18). So it is to be called before the
// first thread is made. Best effort: where it fails, the table grows later.
void grow_descriptor_table(std::uint32_t count);

// Whether the kernel's limit of sockets in flight for one user (unix(7), ETOOMANYREFS) does not
// hold for us: with CAP_SYS_RESOURCE or CAP_SYS_ADMIN.
bool may_pass_any_number_of_sockets();

}  // namespace tcpmux
