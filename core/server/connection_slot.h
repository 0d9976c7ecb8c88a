// What a shard holds of one connection, from accept until the socket is handed over or closed. A
// slot, with everything in it, has less than 512 bytes, and there are as many as the limits say.
#pragma once

#include <cstdint>

#include "core/base/address.h"
#include "core/base/deadline_queue.h"
#include "core/base/slot_pool.h"
#include "core/io/backend.h"
#include "core/mux/connection.h"
#include "core/mux/reply.h"
#include "core/mux/request.h"
#include "core/mux/service_table.h"

namespace tcpmux {

inline constexpr std::uint32_t kNoLane = UINT32_MAX;
inline constexpr std::uint8_t kNoPin = UINT8_MAX;

struct Connection {
  // the pool's and the deadline queues'
  std::uint32_t generation = 0;
  std::uint32_t next_free = kNoSlot;
  DeadlineLink deadline;

  int fd = -1;  // owned while the slot is taken; closed by the shard alone
  State state = State::kClosed;
  Refusal refusal = Refusal::kUnknown;     // why, once it is to be refused
  bool was_passed = false;                 // came from another shard: not passed on now
  bool was_accepted = false;               // '+' has been sent
  Operation in_flight = Operation::kNone;  // what the kernel works on; kNone exactly when nothing
  std::uint8_t table_pin = kNoPin;         // the table that a reply in flight is sent from
  std::uint32_t line_bytes = 0;            // peeked bytes that are line and not yet taken
  std::uint32_t sent_bytes = 0;            // of the list of names; or thrown away while draining
  ServiceId service = kNoService;

  // facts for the backend; the addresses are asked of the kernel when they are wanted first
  Endpoint source;
  Endpoint destination;
  std::uint64_t id = 0;          // of this run of the mux
  std::int64_t accepted_ns = 0;  // since 1970

  // the sink's: the lane whose place is reserved, and the next socket in its queue
  std::uint32_t lane = kNoLane;
  std::uint32_t next_in_lane = kNoSlot;

  RequestLine line;

  bool knows_addresses() const { return source.address.family != IpAddress::Family::kNone; }
  void keep(const Endpoints& endpoints) {
    source = endpoints.source;
    destination = endpoints.destination;
  }
};
static_assert(sizeof(Connection) <= 512);

}  // namespace tcpmux
