// Router, the part about lanes: those that come, stall, and go, and what is taken back from them.
// Included by router.h alone.
#pragma once

#include <cerrno>

#include "handoff/router.h"

namespace tcpmux::handoff {

template <IoBackend Io>
void Router<Io>::receive(std::unique_ptr<SinkMessage> message, std::int64_t now_ns) {
  auto& command = static_cast<RouterMessage&>(*message);
  switch (command.kind) {
    case RouterMessage::Kind::kLane:
      add_lane(std::unique_ptr<Lane>(static_cast<Lane*>(message.release())));
      return;
    case RouterMessage::Kind::kDrainBackend:
      drain_backend(static_cast<BackendCommand&>(command).backend);
      return;
    case RouterMessage::Kind::kBackendGone:
      lose_backend(static_cast<BackendCommand&>(command).backend, now_ns);
      return;
    case RouterMessage::Kind::kRoutes:
      set_routes(static_cast<RoutesCommand&>(command));
      return;
    case RouterMessage::Kind::kMoreRoutes:
      add_routes(static_cast<MoreRoutes&>(command));
      return;
    case RouterMessage::Kind::kTimes:
      options_.stall_ns = static_cast<TimesCommand&>(command).stall_ns;
      options_.deadline_ns = static_cast<TimesCommand&>(command).deadline_ns;
      return;
  }
}

template <IoBackend Io>
void Router<Io>::add_lane(std::unique_ptr<Lane> lane) {
  std::uint32_t index = 0;
  while (index < lanes_.size() && (lanes_[index] != nullptr || owed_[index] > 0))
    ++index;
  TCPMUX_CHECK(index < lanes_.size(), "the registry makes no more lanes than a shard has places");
  lanes_used_ = std::max(lanes_used_, index + 1);
  lanes_[index] = std::move(lane);
  // Where its backend ended while it was here before, we shall be told again.
  lanes_[index]->gone = false;
  if (!lanes_[index]->broken && !lanes_[index]->drained) link(index);
  // It may come with a queue, of which nobody else knows whether it moves.
  tick_by(0);
}

// A message that cannot be sent stays for the next call. So does all while something is owed since
// an earlier pause: that keeps the numbers of lanes that have got others since, and there are two
// for each.
template <IoBackend Io>
bool Router<Io>::give_lanes_away(std::int64_t now_ns) {
  const bool all_away = std::all_of(lanes_.begin(), lanes_.end(),
                                    [](const std::unique_ptr<Lane>& lane) { return !lane; });
  if (all_away) return true;
  if (std::any_of(owed_.begin(), owed_.end(), [](std::uint32_t owed) { return owed > 0; }))
    return false;
  for (std::uint32_t i = 0; i < lanes_used_; ++i) {
    if (lanes_[i] == nullptr) continue;
    Lane& lane = lane_at(i);
    unlink(i);
    lose_collected(lane);
    std::erase(unsent_, i);
    lane.is_unsent = false;
    if (!lane.queue_is_empty()) settle(lane, now_ns);
    owed_[i] = std::exchange(lane.reserved, 0);
    const bool gone = std::exchange(lane.gone, false);
    if (!send_back(i)) {
      lane.reserved = std::exchange(owed_[i], 0);
      lane.gone = gone;
      return false;
    }
    if (gone) --gone_;
  }
  return true;
}

template <IoBackend Io>
void Router<Io>::add_routes(MoreRoutes& more) {
  std::copy(routes_.begin(), routes_.end(), more.routes.begin());
  routes_.swap(more.routes);
}

// To the registry. False when the steward's mailbox is full; the lane is then still ours.
template <IoBackend Io>
bool Router<Io>::send_back(std::uint32_t index) {
  StewardMessage message;
  message.kind = StewardMessage::Kind::kSink;
  message.sink = std::move(lanes_[index]);
  if (options_.steward->send(std::move(message))) return true;
  lanes_[index].reset(static_cast<Lane*>(message.sink.release()));
  return false;
}

template <IoBackend Io>
std::uint32_t Router<Io>::next_of(const Lane& lane, ServiceId service) const {
  std::size_t i = 0;
  while (lane.setup.services[i] != service)
    ++i;
  return lane.next_for[i];
}

template <IoBackend Io>
void Router<Io>::link(std::uint32_t index) {
  Lane& lane = lane_at(index);
  for (std::size_t i = 0; i < lane.setup.services.size(); ++i) {
    Route& route = routes_[lane.setup.services[i]];
    lane.next_for[i] = std::exchange(route.first, index);
  }
  lane.linked = true;
}

template <IoBackend Io>
void Router<Io>::unlink(std::uint32_t index) {
  Lane& lane = lane_at(index);
  if (!std::exchange(lane.linked, false)) return;
  ++choices_;
  for (std::size_t i = 0; i < lane.setup.services.size(); ++i) {
    const ServiceId service = lane.setup.services[i];
    std::uint32_t* at = &routes_[service].first;
    while (*at != index) {
      Lane& before = lane_at(*at);
      const auto& services = before.setup.services;
      const auto found = std::find(services.begin(), services.end(), service);
      at = &before.next_for[static_cast<std::size_t>(found - services.begin())];
    }
    *at = lane.next_for[i];
  }
}

template <IoBackend Io>
void Router<Io>::set_routes(const RoutesCommand& command) {
  for (const RoutesCommand::Entry& entry : command.entries) {
    routes_[entry.service].shards = entry.shards;
    routes_[entry.service].backends = entry.backends;
  }
  options_.routes_version->store(command.version, std::memory_order_release);
  notify(command.version, LaneNotice::kRoutes, 0);
}

template <IoBackend Io>
void Router<Io>::drain_backend(std::uint64_t backend) {
  for (std::uint32_t i = 0; i < lanes_used_; ++i)
    if (lanes_[i] != nullptr && lanes_[i]->setup.backend == backend) unlink(i);
}

template <IoBackend Io>
void Router<Io>::lose_backend(std::uint64_t backend, std::int64_t now_ns) {
  for (std::uint32_t i = 0; i < lanes_used_; ++i) {
    if (lanes_[i] == nullptr || lanes_[i]->setup.backend != backend) continue;
    unlink(i);
    lanes_[i]->gone = true;
    ++gone_;
    lose_collected(*lanes_[i]);
  }
  tick_by(now_ns);
}

// Those that were to go into the next message look for another lane.
template <IoBackend Io>
void Router<Io>::lose_collected(Lane& lane) {
  while (lane.first != kNoSlot)
    events_.lane_lost(take_first(lane));
}

template <IoBackend Io>
void Router<Io>::tick(std::int64_t now_ns) {
  next_tick_ns_ = kNever_ns;
  for (std::uint32_t i = 0; i < lanes_used_; ++i) {
    if (lanes_[i] == nullptr) continue;
    Lane& lane = *lanes_[i];
    if (lane.gone) {
      if (!give_back(i)) tick_by(now_ns + kSoon_ns);
    } else {
      look_at(lane, i, now_ns);
    }
  }
  flush(now_ns);
}

// A lane whose backend is gone. True when it has been emptied, closed and returned.
template <IoBackend Io>
bool Router<Io>::give_back(std::uint32_t index) {
  Lane& lane = lane_at(index);
  if (!take_back(lane, false)) return false;
  if (lane.reserved > 0) return false;
  std::erase(unsent_, index);
  lane.is_unsent = false;
  if (!send_back(index)) return false;
  --gone_;
  return true;
}

template <IoBackend Io>
void Router<Io>::look_at(Lane& lane, std::uint32_t index, std::int64_t now_ns) {
  if (!lane.queue_is_empty()) settle(lane, now_ns);
  if (lane.broken) {
    lose_collected(lane);
    if (!lane.broken_reported)
      lane.broken_reported = notify(lane.setup.backend, LaneNotice::kBroken, EPIPE);
    if (!lane.broken_reported) tick_by(now_ns + kSoon_ns);
  }
  if (lane.stalled) {
    look_at_stalled(lane, index, now_ns);
  } else if (lane.still_for_ns(now_ns) >= options_.stall_ns) {
    lane.stalled = true;
    lane.stalled_at_ns = now_ns;
    notify(lane.setup.backend, LaneNotice::kStalled, lane.queued());
    look_at_stalled(lane, index, now_ns);
  }
  if (lane.stalled) {
    tick_by(now_ns + std::min(kStalledLook_ns, options_.stall_ns));
  } else if (!lane.queue_is_empty()) {
    tick_by(now_ns + std::clamp(options_.stall_ns / 8, kSoon_ns, kNanosPerSecond / 4));
  }
}

// What waits in a stalled lane goes to others, where there are any; where there are none, it stays
// (its backend may wake up) until nobody has come for it before the deadline. What is taken back is
// followed by a probe: the lane serves again when its queue is empty. A raw lane knows no probe, so
// after a while one socket is risked.
template <IoBackend Io>
void Router<Io>::look_at_stalled(Lane& lane, std::uint32_t index, std::int64_t now_ns) {
  const bool raw = lane.setup.kind != LaneKind::kMessages;
  // Others come first, even where the deadline has passed before the stall was seen.
  const bool others = others_serve(lane);
  const bool expired =
      !others && lane.still_for_ns(now_ns) >= options_.stall_ns + options_.deadline_ns;
  if ((lane.queued() > 0 || lane.collected > 0) && (expired || others)) {
    lose_collected(lane);
    if (take_back(lane, expired)) {
      lane.emptied();
      lane.stalled_at_ns = now_ns;
      lane.risk_one = raw;
      if (!raw) send_probe(index, now_ns);
    }
    return;
  }
  if (!lane.queue_is_empty()) return;
  if (lane.risk_one && now_ns - lane.stalled_at_ns < options_.stall_ns) return;
  lane.on_probation = std::exchange(lane.risk_one, false);
  lane.stalled = false;
  if (!lane.on_probation) notify(lane.setup.backend, LaneNotice::kResumed, 0);
}

template <IoBackend Io>
bool Router<Io>::others_serve(const Lane& lane) const {
  return std::any_of(
      lane.setup.services.begin(), lane.setup.services.end(),
      [&](ServiceId service) { return routes_[service].backends > (lane.linked ? 1u : 0u); });
}

// True when the queue is empty. A message is received only when there are slots and descriptors for
// all that may be in it, so nothing that we hold can be lost here. Slots mean descriptors by our
// budget, but newcomers that nobody has looked at yet may have used them up for a moment. Where
// memory is short, it stays in the queue.
template <IoBackend Io>
bool Router<Io>::take_back(Lane& lane, bool expired) {
  std::array<OwnFd, kSocketsPerMessageMax> sockets;
  std::uint32_t count = 0;
  bool empty = false;
  bool later = false;
  while (!empty && !later && (expired || events_.free_for_taken_back() >= lane.setup.batch) &&
         (planted(Bug::kTakenBackBlindly) || io_.has_room_for(lane.setup.batch))) {
    ReceiveCall call(taken_back_payload_);
    const Received received =
        call.finish(io_.receive_now(lane.setup.copy_of_theirs.get(), call.message()), sockets);
    later = received.error == ENOMEM || received.error == ENOBUFS;
    empty = !later && received.kind != Received::Kind::kMessage;
    const auto taken = std::span(sockets).first(received.descriptors);
    take_back_message(lane, std::span(taken_back_payload_).first(received.bytes), taken, expired);
    count += static_cast<std::uint32_t>(received.descriptors);
  }
  if (count > 0) notify(lane.setup.backend, LaneNotice::kTakenBack, count);
  return empty;
}

template <IoBackend Io>
void Router<Io>::take_back_message(Lane& lane, std::span<const std::byte> payload,
                                   std::span<OwnFd> sockets, bool expired) {
  HandoffDecoder decoder(payload);
  const bool raw = lane.setup.kind != LaneKind::kMessages;
  for (OwnFd& socket : sockets) {
    const Result<Facts> facts = raw ? Result<Facts>(std::unexpect) : decoder.next();
    events_.taken_back(described(lane, std::move(socket), facts), expired);
  }
}

// A raw lane's messages say nothing, but it has one service. Addresses that are missing are asked
// of the socket when they are wanted.
template <IoBackend Io>
PassedConnection Router<Io>::described(const Lane& lane, OwnFd socket,
                                       const Result<Facts>& facts) const {
  PassedConnection connection{.service = lane.setup.services.front(), .was_accepted = true};
  if (facts.has_value()) {
    const ServiceId service = table_->find(facts->service);
    if (service != kNoService) connection.service = service;
    connection.source = facts->source;
    connection.destination = facts->destination;
    for (std::size_t i = 8; i < 16; ++i)
      connection.id = (connection.id << 8) | facts->id[i];
    connection.accepted_ns = facts->accepted_ns;
  } else {
    connection.accepted_ns = realtime_ns();
  }
  connection.socket = std::move(socket);
  return connection;
}

// False when the steward's mailbox is full. Nothing hangs on a notice: what it says is a line in
// the log (kStalled, kResumed, kTakenBack), is looked at all the same (kRoutes), or repeated
// (kBroken).
template <IoBackend Io>
bool Router<Io>::notify(std::uint64_t number, LaneNotice notice, std::uint32_t amount) {
  StewardMessage message;
  message.kind = StewardMessage::Kind::kSinkNotice;
  message.number = number;
  message.detail = static_cast<std::uint32_t>(notice);
  message.amount = amount;
  return options_.steward->send(std::move(message));
}

}  // namespace tcpmux::handoff
