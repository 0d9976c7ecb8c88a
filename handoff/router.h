// The router: the half of the handoff that runs on a shard. It knows the shard's lanes, promises
// places in them, collects sockets into messages, and takes back what no backend received. It is
// the daemon's HandoffSink (core/server/handoff_sink.h).
//
// A lane's way:   serving <-> stalled                its queue did not move for `stall_ms`
//                    |
//                 draining                           its backend wants no more
//                    |
//                   gone --> given back              taken back, closed, returned to the registry
// Any of them may be given away, with what is in its queue, to come back or to go to a successor.
//
// A socket is collected when the client has seen '+', and sent when the message is full or the
// shard is about to sleep. Until then it is with its slot; then it is in the queue, which is ours
// until the backend receives it. Everything is sized when the router is made.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/clock.h"
#include "core/base/planted.h"
#include "core/base/slot_pool.h"
#include "core/io/backend.h"
#include "core/server/connection_slot.h"
#include "core/server/handoff_sink.h"
#include "core/server/messages.h"
#include "core/server/shard_counters.h"
#include "handoff/ancillary.h"
#include "handoff/lane.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

struct RouterOptions {
  std::uint32_t shard = 0;
  std::uint32_t services_max = 0;  // ids below this can have routes
  std::uint32_t lanes_max = 0;
  std::int64_t stall_ns = 0;
  std::int64_t deadline_ns = 0;  // after '+', without a backend
  std::array<std::uint8_t, 8> run_id{};
  StewardMailbox* steward = nullptr;
  // The version of the routes that this shard has, for the registry to read.
  std::atomic<std::uint64_t>* routes_version = nullptr;
};

template <IoBackend Io>
class Router {
 public:
  using Options = RouterOptions;

  Router(const Options& options, Io& io, SlotPool<Connection>& connections, HandoffEvents& events,
         ShardCounters& counters);

  // HandoffSink
  void use_table(std::shared_ptr<const ServiceTable> table) { table_ = std::move(table); }
  Reservation reserve(ServiceId service, std::int64_t now_ns);
  void unreserve(std::uint32_t lane);
  void hand_off(std::uint32_t slot, std::int64_t now_ns);
  void flush(std::int64_t now_ns);
  void receive(std::unique_ptr<SinkMessage> message, std::int64_t now_ns);
  bool give_lanes_away(std::int64_t now_ns);
  void tick(std::int64_t now_ns);
  std::int64_t next_tick_ns() const { return next_tick_ns_; }
  std::int64_t waiting_since_ns() const { return waiting_since_ns_; }
  bool idle() const { return held_ == 0 && gone_ == 0; }

 private:
  // How old a picture of a queue may be when a choice depends on it.
  static constexpr std::int64_t kPicture_ns = kNanosPerMilli;
  static constexpr std::int64_t kSoon_ns = 5 * kNanosPerMilli;
  static constexpr std::int64_t kUserLimitPause_ns = 50 * kNanosPerMilli;
  static constexpr std::int64_t kStalledLook_ns = 20 * kNanosPerMilli;

  // A message while it is made and sent.
  struct Outgoing {
    std::uint32_t bytes = 0;
    std::uint32_t sockets = 0;  // 0: a probe
    std::array<int, kSocketsPerMessageMax> descriptors;
    ControlBuffer<kSocketsPerMessageMax> control;
    std::array<std::byte, kMessageBytesMax> payload;
  };

  // --- lanes (router_lanes.h) ---
  void add_lane(std::unique_ptr<Lane> lane);
  void link(std::uint32_t index);
  void unlink(std::uint32_t index);
  std::uint32_t next_of(const Lane& lane, ServiceId service) const;
  void set_routes(const RoutesCommand& command);
  void drain_backend(std::uint64_t backend);
  void lose_backend(std::uint64_t backend, std::int64_t now_ns);
  void lose_collected(Lane& lane);
  bool give_back(std::uint32_t index);
  bool send_back(std::uint32_t index);
  void add_routes(MoreRoutes& more);
  void look_at(Lane& lane, std::uint32_t index, std::int64_t now_ns);
  void look_at_stalled(Lane& lane, std::uint32_t index, std::int64_t now_ns);
  bool others_serve(const Lane& lane) const;
  bool take_back(Lane& lane, bool expired);
  void take_back_message(Lane& lane, std::span<const std::byte> payload, std::span<OwnFd> sockets,
                         bool expired);
  PassedConnection described(const Lane& lane, OwnFd socket, const Result<Facts>& facts) const;
  bool notify(std::uint64_t number, LaneNotice notice, std::uint32_t amount);

  // --- sending (router.h, below) ---
  Lane& lane_at(std::uint32_t index) { return *lanes_[index]; }
  bool choice_holds(const Route& route) const;
  void settle(Lane& lane, std::int64_t now_ns);
  bool send_list(std::uint32_t index, std::int64_t now_ns);
  bool send_message(std::uint32_t index, std::int64_t now_ns);
  void send_probe(std::uint32_t index, std::int64_t now_ns);
  void fill(const Lane& lane);
  Facts facts_of(Connection& connection, bool with_addresses);
  bool send(std::uint32_t index, std::int64_t now_ns);
  std::uint32_t take_first(Lane& lane);
  void append(Lane& lane, std::uint32_t slot);
  void mark_unsent(std::uint32_t index);
  void failed(std::uint32_t index, int error, std::int64_t now_ns);
  void tick_by(std::int64_t at_ns) { next_tick_ns_ = std::min(next_tick_ns_, at_ns); }

  Options options_;
  Io& io_;
  SlotPool<Connection>& connections_;
  HandoffEvents& events_;
  ShardCounters& counters_;
  std::shared_ptr<const ServiceTable> table_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // by number; nullptr: free
  std::vector<std::uint32_t> owed_;           // by number: places reserved in lanes given away
  std::vector<Route> routes_;                 // by service
  std::vector<std::uint32_t> unsent_;         // lanes with a list; has room for all
  Outgoing outgoing_;
  std::array<std::byte, kMessageBytesMax> taken_back_payload_;
  std::int64_t waiting_since_ns_ = kNever_ns;
  std::int64_t next_tick_ns_ = kNever_ns;
  std::uint64_t choices_ = 0;     // counts up when chosen lanes are to be chosen anew
  std::uint32_t held_ = 0;        // sockets collected, in all lanes
  std::uint32_t gone_ = 0;        // lanes whose backend is gone, not yet given back
  std::uint32_t lanes_used_ = 0;  // numbers from here on were never used
  std::uint32_t next_elsewhere_ = 0;
};

template <IoBackend Io>
Router<Io>::Router(const Options& options, Io& io, SlotPool<Connection>& connections,
                   HandoffEvents& events, ShardCounters& counters)
    : options_(options),
      io_(io),
      connections_(connections),
      events_(events),
      counters_(counters),
      // Lanes may come back before what is owed in them is done.
      lanes_(2 * std::size_t{options.lanes_max}),
      owed_(lanes_.size()),
      routes_(options.services_max) {
  unsent_.reserve(lanes_.size());
}

template <IoBackend Io>
void Router<Io>::settle(Lane& lane, std::int64_t now_ns) {
  if (lane.settle(io_.queued_bytes(lane.setup.copy_of_theirs.get()), now_ns))
    lane.on_probation = false;
}

template <IoBackend Io>
bool Router<Io>::choice_holds(const Route& route) const {
  return route.chosen_left > 0 && route.chosen_in == choices_ && lanes_[route.chosen]->room() > 0;
}

// The lane with the most room wins, and goes on winning until its message is full or the lanes are
// flushed: what costs is messages, and the backends that they wake. A queue's length is asked of
// the kernel only where the count of what was sent says that it may be long.
template <IoBackend Io>
Reservation Router<Io>::reserve(ServiceId service, std::int64_t now_ns) {
  using Kind = Reservation::Kind;
  if (service >= routes_.size()) return {Kind::kNoBackend, 0};
  Route& route = routes_[service];
  if (choice_holds(route)) {
    --route.chosen_left;
    ++lane_at(route.chosen).reserved;
    return {Kind::kRoom, route.chosen};
  }
  std::uint32_t best = kNoLane;
  std::uint32_t best_room = 0;
  bool all_stalled = true;
  for (std::uint32_t i = route.first; i != kNoLane; i = next_of(lane_at(i), service)) {
    Lane& lane = lane_at(i);
    const bool full = lane.room() == 0;
    const bool long_queue = full || lane.queued() >= 2u * lane.setup.batch;
    // Before "no room", a new picture in each turn of the loop.
    const std::int64_t picture_ns = full ? 1 : kPicture_ns;
    if (long_queue && !lane.stalled && lane.settled_at_ns() + picture_ns <= now_ns)
      settle(lane, now_ns);
    all_stalled &= lane.stalled;
    if (lane.room() > best_room) {
      best = i;
      best_room = lane.room();
    }
  }
  if (best != kNoLane) {
    route.chosen = best;
    route.chosen_left = lane_at(best).setup.batch - 1u;
    route.chosen_in = choices_;
    ++lane_at(best).reserved;
    return {Kind::kRoom, best};
  }
  if (!all_stalled) return {Kind::kNoRoom, 0};
  const std::uint64_t others = route.shards & ~(std::uint64_t{1} << options_.shard);
  if (others == 0) return {route.first == kNoLane ? Kind::kNoBackend : Kind::kNoRoom, 0};
  do {
    next_elsewhere_ = (next_elsewhere_ + 1) % 64;
  } while (((others >> next_elsewhere_) & 1) == 0);
  return {Kind::kElsewhere, next_elsewhere_};
}

template <IoBackend Io>
void Router<Io>::unreserve(std::uint32_t lane) {
  --(lanes_[lane] != nullptr ? lanes_[lane]->reserved : owed_[lane]);
}

template <IoBackend Io>
void Router<Io>::append(Lane& lane, std::uint32_t slot) {
  connections_[slot].next_in_lane = kNoSlot;
  (lane.last == kNoSlot ? lane.first : connections_[lane.last].next_in_lane) = slot;
  lane.last = slot;
}

template <IoBackend Io>
void Router<Io>::mark_unsent(std::uint32_t index) {
  if (!std::exchange(lane_at(index).is_unsent, true)) unsent_.push_back(index);
}

template <IoBackend Io>
void Router<Io>::hand_off(std::uint32_t slot, std::int64_t now_ns) {
  const std::uint32_t index = connections_[slot].lane;
  unreserve(index);
  if (lanes_[index] == nullptr || lane_at(index).gone || lane_at(index).broken) {
    events_.lane_lost(slot);
    return;
  }
  Lane& lane = lane_at(index);
  append(lane, slot);
  mark_unsent(index);
  waiting_since_ns_ = std::min(waiting_since_ns_, now_ns);
  ++held_;
  ++lane.collected;
  if (lane.collected >= lane.setup.batch && lane.retry_at_ns <= now_ns) send_message(index, now_ns);
}

// Sends every list; those that cannot be sent now wait for the next tick.
template <IoBackend Io>
void Router<Io>::flush(std::int64_t now_ns) {
  waiting_since_ns_ = kNever_ns;
  ++choices_;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < unsent_.size(); ++i) {
    const std::uint32_t index = unsent_[i];
    lane_at(index).is_unsent = !send_list(index, now_ns);
    if (lane_at(index).is_unsent) unsent_[kept++] = index;
  }
  unsent_.resize(kept);
}

// True when the list is empty then.
template <IoBackend Io>
bool Router<Io>::send_list(std::uint32_t index, std::int64_t now_ns) {
  Lane& lane = lane_at(index);
  if (lane.retry_at_ns > now_ns) tick_by(lane.retry_at_ns);
  if (lane.retry_at_ns > now_ns || lane.broken) return lane.first == kNoSlot;
  while (lane.first != kNoSlot && send_message(index, now_ns)) {
  }
  return lane.first == kNoSlot;
}

// The next message of the lane's list. Our copies of its sockets are closed on the spot: whoever
// closes last sends the FIN, which costs more than all the rest of a close, and where the backend
// is to do it, we have to be faster than it is. False when the message could not be sent.
template <IoBackend Io>
bool Router<Io>::send_message(std::uint32_t index, std::int64_t now_ns) {
  Lane& lane = lane_at(index);
  fill(lane);
  if (!send(index, now_ns)) return false;
  if (planted(Bug::kHandedOutTwice) && counters_.taken_back.read() > 0) send(index, now_ns);
  for (std::uint32_t left = outgoing_.sockets; left > 0; --left)
    events_.handed_off(take_first(lane));
  return true;
}

// As many sockets from the head of the list as the batch and the message's size allow. They stay in
// the list until the message is sent.
template <IoBackend Io>
void Router<Io>::fill(const Lane& lane) {
  const bool raw = lane.setup.kind != LaneKind::kMessages;
  HandoffEncoder encoder(outgoing_.payload);
  outgoing_.sockets = 0;
  for (std::uint32_t slot = lane.first; slot != kNoSlot && outgoing_.sockets < lane.setup.batch;
       slot = connections_[slot].next_in_lane) {
    Connection& connection = connections_[slot];
    if (!raw && !encoder.add(facts_of(connection, !lane.setup.without_addresses))) break;
    outgoing_.descriptors[outgoing_.sockets++] = connection.fd;
  }
  outgoing_.bytes = 1;
  if (raw) outgoing_.payload[0] = std::byte{0};
  if (!raw) outgoing_.bytes = static_cast<std::uint32_t>(encoder.finish().size());
}

// Addresses are asked of the kernel only where somebody wants them.
template <IoBackend Io>
Facts Router<Io>::facts_of(Connection& connection, bool with_addresses) {
  Facts facts;
  facts.service = (*table_)[connection.service].name;
  facts.accepted_ns = connection.accepted_ns;
  if (with_addresses) {
    if (!connection.knows_addresses()) connection.keep(io_.endpoints(connection.fd));
    facts.source = connection.source;
    facts.destination = connection.destination;
  }
  std::copy(options_.run_id.begin(), options_.run_id.end(), facts.id.begin());
  for (std::size_t i = 0; i < 8; ++i)
    facts.id[8 + i] = static_cast<std::uint8_t>(connection.id >> (56 - 8 * i));
  return facts;
}

template <IoBackend Io>
std::uint32_t Router<Io>::take_first(Lane& lane) {
  const std::uint32_t slot = lane.first;
  lane.first = connections_[slot].next_in_lane;
  if (lane.first == kNoSlot) lane.last = kNoSlot;
  --lane.collected;
  --held_;
  return slot;
}

template <IoBackend Io>
void Router<Io>::send_probe(std::uint32_t index, std::int64_t now_ns) {
  outgoing_.sockets = 0;
  outgoing_.bytes = static_cast<std::uint32_t>(encode_probe(outgoing_.payload));
  send(index, now_ns);
}

// False when it is not in the queue; the lane then rests for a while, or is broken.
template <IoBackend Io>
bool Router<Io>::send(std::uint32_t index, std::int64_t now_ns) {
  Lane& lane = lane_at(index);
  msghdr header{};
  iovec vector;
  prepare_send(header, vector, std::span(outgoing_.payload).first(outgoing_.bytes),
               outgoing_.control.bytes, std::span(outgoing_.descriptors).first(outgoing_.sockets));
  const std::int64_t result = io_.send_now(lane.setup.ours.get(), &header);
  if (result < 0) {
    failed(index, static_cast<int>(-result), now_ns);
    return false;
  }
  lane.sent(outgoing_.bytes, outgoing_.sockets, now_ns);
  counters_.messages.add();
  tick_by(now_ns + std::clamp(options_.stall_ns / 8, kSoon_ns, kNanosPerSecond / 4));
  return true;
}

template <IoBackend Io>
void Router<Io>::failed(std::uint32_t index, int error, std::int64_t now_ns) {
  Lane& lane = lane_at(index);
  const bool full = error == EAGAIN || error == ENOBUFS || error == ENOMEM;
  if (full || error == ETOOMANYREFS) {
    // POLLOUT would be set all the time at ETOOMANYREFS (Linux 6.18), so time is what we wait for.
    counters_.lane_full.add();
    if (planted(Bug::kLeakOnEagain) && lane.first != kNoSlot) take_first(lane);
    lane.retry_at_ns = now_ns + (full ? kSoon_ns : kUserLimitPause_ns);
    tick_by(lane.retry_at_ns);
    return;
  }
  if (!lane.broken) {
    lane.broken = true;
    unlink(index);
    lane.broken_reported =
        notify(lane.setup.backend, LaneNotice::kBroken, static_cast<std::uint32_t>(error));
  }
  tick_by(now_ns);  // which loses what was collected: not here, where lists are being walked
}

}  // namespace tcpmux::handoff

#include "handoff/router_lanes.h"
