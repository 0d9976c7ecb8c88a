// The seam between the core and whatever takes the sockets: the concept HandoffSink. The core knows
// lanes by number and nothing else; handoff/router.h is the sink of the daemon.
//
// A sink belongs to one shard and runs on its thread. It never closes a connection and never frees
// a slot: it tells the shard (HandoffEvents), which does.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>

#include "core/base/fd.h"
#include "core/io/backend.h"
#include "core/server/connection_slot.h"

namespace tcpmux {

struct Reservation {
  enum class Kind : std::uint8_t {
    kRoom,       // `number` is the lane; the place is held until hand_off() or unreserve()
    kNoRoom,     // there are lanes, but no place in them now
    kNoBackend,  // no shard has a lane for the service
    kElsewhere,  // `number` is a shard that has one
  };
  Kind kind = Kind::kNoBackend;
  std::uint32_t number = 0;
};

// What travels between the steward's half of a sink and a shard's half; the core only carries it.
struct SinkMessage {
  virtual ~SinkMessage() = default;
};

// A connection that comes to a shard from elsewhere: passed on by another shard before '+', or
// after '+' (then also one that was taken back).
struct PassedConnection {
  OwnFd socket{};
  ServiceId service = kNoService;
  std::uint32_t line_bytes = 0;  // still in the socket; 0 after '+'
  bool was_accepted = false;
  Endpoint source{};
  Endpoint destination{};
  std::uint64_t id = 0;
  std::int64_t accepted_ns = 0;
  std::int64_t deadline_ns = kNever_ns;  // after '+': when the search for a lane ends, if it began
};

class HandoffEvents {
 public:
  // The message with this slot's socket is in the lane: our copy of the socket can go.
  virtual void handed_off(std::uint32_t slot) = 0;
  // The lane ended before the socket was in it. The place is no longer reserved.
  virtual void lane_lost(std::uint32_t slot) = 0;
  // How many connections taken_back() can still take.
  virtual std::uint32_t free_for_taken_back() const = 0;
  // A socket that no backend received. `expired`: nobody is to be looked for any more.
  virtual void taken_back(PassedConnection connection, bool expired) = 0;

 protected:
  ~HandoffEvents() = default;
};

template <class Sink>
concept HandoffSink =
    requires(Sink sink, const Sink constant, ServiceId service, std::uint32_t slot,
             std::uint32_t lane, std::int64_t now_ns, std::unique_ptr<SinkMessage> message,
             std::shared_ptr<const ServiceTable> table) {
      typename Sink::Options;
      // Names for the facts; ids stay valid in every later table.
      { sink.use_table(table) } -> std::same_as<void>;
      { sink.reserve(service, now_ns) } -> std::same_as<Reservation>;
      { sink.unreserve(lane) } -> std::same_as<void>;
      // The slot's `lane` is reserved: its socket joins the lane's next message.
      { sink.hand_off(slot, now_ns) } -> std::same_as<void>;
      // Starts sending what has been collected. Called when the shard is about to sleep.
      { sink.flush(now_ns) } -> std::same_as<void>;
      { sink.receive(std::move(message), now_ns) } -> std::same_as<void>;
      // Gives all lanes away, to whoever made them; sockets that were to go into one are lost to it
      // (lane_lost). True when all are gone; false: to be called again soon.
      { sink.give_lanes_away(now_ns) } -> std::same_as<bool>;
      // Time-driven work: stalls, take-backs, retries; and when it is due next.
      { sink.tick(now_ns) } -> std::same_as<void>;
      { constant.next_tick_ns() } -> std::same_as<std::int64_t>;
      // When the oldest socket that waits for flush() came; kNever_ns when none does.
      { constant.waiting_since_ns() } -> std::same_as<std::int64_t>;
      // True exactly when no socket of the shard is in the sink's hands.
      { constant.idle() } -> std::same_as<bool>;
    };

}  // namespace tcpmux
