// Shard, the part about one connection: carrying out what the state machine says. Included by
// shard.h alone.
#pragma once

#include <algorithm>

#include "core/server/shard.h"

namespace tcpmux {

template <IoBackend Io, HandoffSink Sink>
Tag Shard<Io, Sink>::tag(std::uint32_t slot, Operation operation) {
  return {.operation = operation, .slot = {slot, pool_[slot].generation}};
}

// Carrying out an action may answer with the next event at once (a reservation does).
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::apply(std::uint32_t slot, Event event) {
  for (std::optional<Event> next = event; next.has_value();) {
    Connection& connection = pool_[slot];
    const State before = connection.state;
    const Step taken = step(before, *next);
    TCPMUX_CHECK(taken.action != Action::kBug, "an event that cannot happen in this state");
    note(connection, before, *next);
    connection.state = taken.next;
    next = carry_out(slot, taken.action);
  }
}

// Counts what the step means for the client, and keeps why it will be refused.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::note(Connection& connection, State before, Event event) {
  const bool handshake = before == State::kPeeking || before == State::kTaking;
  if (event == Event::kDeadline && handshake) counters_.timed_out.add();
  if (event == Event::kDeadline && before == State::kParked) counters_.closed_without_backend.add();
  if (event == Event::kDeadline && before == State::kReserving) connection.refusal = Refusal::kBusy;
  // Its line may still have been read, and judged, before the peek could be cancelled.
  if (event == Event::kShutdown || before == State::kTurningAway)
    connection.refusal = Refusal::kShuttingDown;
  if (event == Event::kNoBackend && before == State::kReserving)
    connection.refusal =
        is_configured(connection.service) ? Refusal::kUnavailable : Refusal::kUnknown;
  if (event == Event::kPeerGone &&
      (handshake || before == State::kReplying || before == State::kTurningAway))
    counters_.peer_gone.add();
  // A client whose receive window takes not even '+'.
  if (event == Event::kReplyShort && before == State::kReplying) counters_.peer_gone.add();
}

template <IoBackend Io, HandoffSink Sink>
std::optional<Event> Shard<Io, Sink>::carry_out(std::uint32_t slot, Action action) {
  Connection& connection = pool_[slot];
  const auto start = [&](Operation operation) {
    connection.in_flight = operation;
    return tag(slot, operation);
  };
  switch (action) {
    case Action::kNothing:
      return std::nullopt;
    case Action::kPeek:
      io_->peek(start(Operation::kPeek), connection.fd, room_for_line(connection));
      return std::nullopt;
    case Action::kTake:
      if (planted(Bug::kLostDeadline)) set_deadline(slot, nullptr, 0);
      io_->discard(start(Operation::kDiscard), connection.fd,
                   std::exchange(connection.line_bytes, 0));
      return std::nullopt;
    case Action::kReserve:
      return reserve(slot);
    case Action::kWait:
      wait_for_room(slot);
      return std::nullopt;
    case Action::kAccept:
      accept(slot);
      return std::nullopt;
    case Action::kHandOff:
      set_deadline(slot, nullptr, 0);
      connection.was_accepted = true;
      sink_.hand_off(slot, now_ns_);
      return std::nullopt;
    case Action::kPass:
      free_slot(slot);
      return std::nullopt;  // reserve() has sent it
    case Action::kRefuse:
      refuse(slot);
      return std::nullopt;
    case Action::kList:
      counters_.helped.add();
      connection.sent_bytes = 0;
      connection.table_pin = tables_.pin();
      list(slot);
      return std::nullopt;
    case Action::kListMore:
      list(slot);
      return std::nullopt;
    case Action::kHangUp:
      hang_up(slot);
      return std::nullopt;
    case Action::kDrain:
      io_->drain(start(Operation::kDrain), connection.fd);
      return std::nullopt;
    case Action::kCancel:
      set_deadline(slot, nullptr, 0);
      io_->cancel(tag(slot, connection.in_flight), connection.fd);
      return std::nullopt;
    case Action::kUnreserve:
      sink_.unreserve(connection.lane);
      [[fallthrough]];
    case Action::kClose:
      close(slot);
      return std::nullopt;
    case Action::kBug:
      break;
  }
  TCPMUX_UNREACHABLE("apply() lets no bug through");
}

// The bound may have become smaller since the line began: one more byte, and it is too long.
template <IoBackend Io, HandoffSink Sink>
std::span<char> Shard<Io, Sink>::room_for_line(Connection& connection) const {
  return connection.line.room(
      std::max<std::size_t>(options_.line_bytes_max, connection.line.length() + 1));
}

// A whole line was peeked: whom is it for, and may this client have it?
template <IoBackend Io, HandoffSink Sink>
Event Shard<Io, Sink>::judge(Connection& connection) {
  const std::string_view name = connection.line.name();
  if (options_.help_enabled && is_help(name)) return Event::kLineHelp;

  const ServiceId id = table().find(name);
  connection.refusal = Refusal::kUnknown;
  if (id == kNoService) return Event::kLineRefused;
  const Service& service = table()[id];
  if (service.removed) return Event::kLineRefused;
  if (!service.access.everyone()) {
    connection.keep(io_->endpoints(connection.fd));
    if (!connection.knows_addresses()) return Event::kPeerGone;
    if (!service.access.allows(connection.source.address)) {
      if (!service.hidden) connection.refusal = Refusal::kDenied;
      return Event::kLineRefused;
    }
  }
  connection.service = id;
  return Event::kLineService;
}

template <IoBackend Io, HandoffSink Sink>
Event Shard<Io, Sink>::reserve(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  if (leaving_) return pass_on(slot) ? Event::kElsewhere : Event::kNoRoom;
  if (paused_) return Event::kNoRoom;
  const Reservation reservation = sink_.reserve(connection.service, now_ns_);
  switch (reservation.kind) {
    case Reservation::Kind::kRoom:
      connection.lane = reservation.number;
      return Event::kRoom;
    case Reservation::Kind::kNoRoom:
      return Event::kNoRoom;
    case Reservation::Kind::kNoBackend:
      return Event::kNoBackend;
    case Reservation::Kind::kElsewhere:
      break;
  }
  // Two shards that each see room only at the other would play ball with it. And a shard that has
  // said that it is done keeps what came since: the other may have ended when it arrives there.
  if (connection.was_passed || (reported_done_ && !planted(Bug::kPassedWhenDone)))
    return Event::kNoRoom;
  return pass(slot, reservation.number) ? Event::kElsewhere : Event::kNoRoom;
}

// The socket is then the message's.
template <IoBackend Io, HandoffSink Sink>
PassedConnection Shard<Io, Sink>::passed_of(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  io_->let_go(connection.fd);
  return {.socket = OwnFd(connection.fd),
          .service = connection.service,
          .line_bytes = connection.line_bytes,
          .was_accepted = connection.was_accepted,
          .source = connection.source,
          .destination = connection.destination,
          .id = connection.id,
          .accepted_ns = connection.accepted_ns,
          .deadline_ns = parked_.holds(slot) ? connection.deadline.at_ns : kNever_ns};
}

// To the successor, by way of the steward.
template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::pass_on(std::uint32_t slot) {
  StewardMessage message;
  message.kind = StewardMessage::Kind::kPassedOn;
  message.connection = passed_of(slot);
  const bool sent = links_.steward.send(std::move(message));
  const int fd = sent ? -1 : message.connection.socket.release();
  TCPMUX_CHECK(sent || fd == pool_[slot].fd, "a refused message comes back whole");
  pool_[slot].fd = fd;
  if (sent) counters_.passed_on.add();
  return sent;
}

template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::pass(std::uint32_t slot, std::uint32_t shard) {
  Connection& connection = pool_[slot];
  ShardMessage message;
  message.kind = ShardMessage::Kind::kConnection;
  message.connection = passed_of(slot);
  if (links_.all[shard]->send(std::move(message))) {
    connection.fd = -1;
    counters_.passed.add();
    return true;
  }
  // The mailbox is full, and the socket is still ours.
  TCPMUX_CHECK(message.connection.socket.release() == connection.fd,
               "a refused message comes back whole");
  return false;
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::wait_for_room(std::uint32_t slot) {
  const bool parked = pool_[slot].state == State::kParked;
  Queue& queue = parked ? parked_ : room_;
  // After '+' it has time: it is passed on again, but with the next retry, and its deadline runs.
  if (parked) pool_[slot].was_passed = false;
  if (!queue.holds(slot))
    set_deadline(slot, &queue, parked ? options_.handoff_deadline_ns : options_.room_wait_ns);
  // Two shards without room would pass it to and fro as often as they look at it.
  const std::int64_t pause_ns = parked ? kRetryLast_ns : retry_pause_ns_;
  retry_at_ns_ = std::min(retry_at_ns_, now_ns_ + pause_ns);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::accept(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  set_deadline(slot, nullptr, 0);
  connection.table_pin = tables_.pin();
  connection.in_flight = Operation::kReply;
  io_->reply(tag(slot, Operation::kReply), connection.fd, std::exchange(connection.line_bytes, 0),
             table().accept_reply(connection.service), table()[connection.service].coalesce_reply);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::refuse(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  counters_.refused[static_cast<std::size_t>(connection.refusal)].add();
  report(connection);
  if (!handshake_.holds(slot)) set_deadline(slot, &linger_, kLinger_ns);
  connection.in_flight = Operation::kReply;
  io_->reply(tag(slot, Operation::kReply), connection.fd, std::exchange(connection.line_bytes, 0),
             refusal_reply(connection.refusal), false);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::list(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  const std::string_view names = tables_.pinned(connection.table_pin).help_reply();
  connection.in_flight = Operation::kReply;
  io_->reply(tag(slot, Operation::kReply), connection.fd, std::exchange(connection.line_bytes, 0),
             names.substr(connection.sent_bytes), false);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::hang_up(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  connection.sent_bytes = 0;
  set_deadline(slot, &linger_, kLinger_ns);
  io_->shutdown_write(connection.fd);
  connection.in_flight = Operation::kDrain;
  io_->drain(tag(slot, Operation::kDrain), connection.fd);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::close(std::uint32_t slot) {
  io_->close(std::exchange(pool_[slot].fd, -1));
  free_slot(slot);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::free_slot(std::uint32_t slot) {
  Connection& connection = pool_[slot];
  TCPMUX_CHECK(connection.in_flight == Operation::kNone && connection.fd < 0,
               "a slot is freed when nothing of it is in use");
  set_deadline(slot, nullptr, 0);
  if (connection.table_pin != kNoPin) tables_.unpin(std::exchange(connection.table_pin, kNoPin));
  pool_.give_back(slot);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::set_deadline(std::uint32_t slot, Queue* queue, std::int64_t duration_ns) {
  for (Queue* held : {&handshake_, &room_, &linger_, &parked_})
    if (held->holds(slot)) held->leave(slot);
  if (queue != nullptr) queue->join(slot, now_ns_ + duration_ns);
}

// To the log, by way of the steward, and no more than so many in a second.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::report(const Connection& connection) {
  if (now_ns_ - log_window_ns_ >= kNanosPerSecond) {
    log_window_ns_ = now_ns_;
    logged_in_window_ = 0;
  }
  if (logged_in_window_ >= kRefusalsLoggedPerSecond) {
    ++suppressed_;
    return;
  }
  StewardMessage message;
  message.kind = StewardMessage::Kind::kRefusal;
  RefusalRecord& record = message.refusal;
  record.refusal = connection.refusal;
  record.source = connection.source;
  if (record.source.address.family == IpAddress::Family::kNone)
    record.source = io_->endpoints(connection.fd).source;
  record.suppressed = suppressed_;
  const std::string_view name = connection.line.name();
  record.name_bytes = static_cast<std::uint8_t>(std::min(name.size(), record.name.size()));
  std::copy_n(name.begin(), record.name_bytes, record.name.begin());
  if (!links_.steward.send(std::move(message))) {
    ++suppressed_;
    return;
  }
  ++logged_in_window_;
  suppressed_ = 0;
}

}  // namespace tcpmux
