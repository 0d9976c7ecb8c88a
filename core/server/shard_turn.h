// Shard, the part about the loop: completions, deadlines, and those who wait for room. Included by
// shard.h alone.
#pragma once

#include <algorithm>

#include "core/server/shard.h"

namespace tcpmux {

template <IoBackend Io, HandoffSink Sink>
Shard<Io, Sink>::Shard(ShardOptions options, std::unique_ptr<Io> io, ShardLinks links,
                       ShardCounters& counters, std::shared_ptr<const ServiceTable> table,
                       const typename Sink::Options& sink_options)
    : options_(std::move(options)),
      io_(std::move(io)),
      links_(links),
      counters_(counters),
      tables_(table),
      pool_(options_.connections_max + options_.busy_max + options_.taken_back_max),
      handshake_(pool_),
      room_(pool_),
      linger_(pool_),
      parked_(pool_),
      sink_(sink_options, *io_, pool_, static_cast<HandoffEvents&>(*this), counters),
      next_id_(std::uint64_t{options_.number} << 48) {
  sink_.use_table(std::move(table));
  listeners_.reserve(kAcceptsMax);  // later ones are added without allocating
  for (ShardListener& listener : options_.listeners)
    listeners_.push_back({.owned = std::move(listener)});
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::run() {
  begin();
  while (!ended())
    turn();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::begin() {
  tell_time();
  for (std::uint32_t i = 0; i < listeners_.size(); ++i)
    start_accepting(i);
  watch_mailbox();
}

// Sockets are handed over when nothing else is ready: collecting them while there is work makes
// messages full and wakes the backend less often; doing so only then costs no latency when idle.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::turn() {
  if (!reported_done_ && done()) report_done();
  if (paused_ && !reported_paused_) report_paused();
  std::size_t count = io_->reap(completions_);
  if (count == 0) {
    sink_.flush(now_ns_);
    count = io_->wait(completions_, next_deadline_ns());
  }
  tell_time();
  for (std::size_t i = 0; i < count; ++i)
    handle(completions_[i]);
  if (changing_ != nullptr) {
    go_on_changing();
    receive_messages();
  }
  if (sink_.waiting_since_ns() < now_ns_ - kFlushAfter_ns) sink_.flush(now_ns_);
  expire();
}

// Once a turn. The clock of the day is read once a second: how far it is ahead changes slowly.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::tell_time() {
  now_ns_ = monotonic_ns();
  if (real_looked_at_ns_ == kNever_ns || now_ns_ - real_looked_at_ns_ >= kNanosPerSecond) {
    real_looked_at_ns_ = now_ns_;
    real_ahead_ns_ = realtime_ns() - now_ns_;
  }
  real_now_ns_ = now_ns_ + real_ahead_ns_;
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::handle(const Completion& completion) {
  switch (completion.tag.operation) {
    case Operation::kAccept:
      handle_accept(completion);
      return;
    case Operation::kWakeup:
      if (!completion.more) watch_again_at_ns_ = now_ns_ + kAcceptPause_ns;
      receive_messages();
      return;
    case Operation::kPeek:
    case Operation::kDiscard:
    case Operation::kReply:
    case Operation::kDrain:
      handle_connection(completion);
      return;
    case Operation::kNone:
      return;
  }
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::handle_connection(const Completion& completion) {
  Connection* const connection = pool_.find(completion.tag.slot);
  TCPMUX_CHECK(connection != nullptr && connection->in_flight == completion.tag.operation,
               "a slot outlives what is in flight for it");
  connection->in_flight = Operation::kNone;
  apply(completion.tag.slot.index,
        event_of(*connection, completion.tag.operation, completion.result));
}

template <IoBackend Io, HandoffSink Sink>
Event Shard<Io, Sink>::event_of(Connection& connection, Operation operation, std::int32_t result) {
  if (result == -ECANCELED) return Event::kCancelled;
  if (result < 0) return Event::kPeerGone;
  const auto bytes = static_cast<std::size_t>(result);
  switch (operation) {
    case Operation::kPeek:
      return bytes == 0 ? Event::kPeerGone : peeked(connection, bytes);
    case Operation::kDiscard:
      return Event::kTaken;
    case Operation::kReply:
      return replied(connection, bytes);
    default:
      break;
  }
  connection.sent_bytes += static_cast<std::uint32_t>(bytes);
  const bool enough = bytes == 0 || connection.sent_bytes > kDrainBytesMax;
  return enough ? Event::kPeerGone : Event::kDrained;
}

template <IoBackend Io, HandoffSink Sink>
Event Shard<Io, Sink>::peeked(Connection& connection, std::size_t bytes) {
  std::size_t take = 0;
  const LineStatus status = connection.line.scan(bytes, options_.line_bytes_max, take);
  connection.line_bytes = static_cast<std::uint32_t>(take);
  if (planted(Bug::kOneByteTooMany) && take < bytes) ++connection.line_bytes;
  switch (status) {
    case LineStatus::kIncomplete:
      return Event::kLineIncomplete;
    case LineStatus::kName:
      return judge(connection);
    case LineStatus::kInvalid:
      connection.refusal = Refusal::kInvalid;
      break;
    case LineStatus::kTooLong:
      connection.refusal = Refusal::kTooLong;
      break;
  }
  return Event::kLineRefused;
}

template <IoBackend Io, HandoffSink Sink>
Event Shard<Io, Sink>::replied(Connection& connection, std::size_t bytes) {
  std::size_t expected = refusal_reply(connection.refusal).size();
  if (connection.table_pin != kNoPin) {
    const ServiceTable& table = tables_.pinned(connection.table_pin);
    if (connection.state == State::kReplying) {
      expected = table.accept_reply(connection.service).size();
    } else {
      connection.sent_bytes += static_cast<std::uint32_t>(bytes);
      if (connection.sent_bytes < table.help_reply().size()) return Event::kReplyShort;
      expected = bytes;
    }
    // The list goes on from the table that it began with; '+' needs its table no more.
    tables_.unpin(std::exchange(connection.table_pin, kNoPin));
  }
  return bytes == expected ? Event::kReplied : Event::kReplyShort;
}

template <IoBackend Io, HandoffSink Sink>
std::int64_t Shard<Io, Sink>::next_deadline_ns() const {
  std::int64_t next_ns =
      std::min({handshake_.next_ns(), room_.next_ns(), linger_.next_ns(), parked_.next_ns(),
                sink_.next_tick_ns(), retry_at_ns_, watch_again_at_ns_});
  for (const Listener& listener : listeners_)
    next_ns = std::min(next_ns, listener.resume_at_ns);
  if (shutting_down_ && !turned_away_) next_ns = std::min(next_ns, shutdown_at_ns_);
  // What the steward's mailbox had no room for is said again.
  const bool has_news =
      (paused_ && !reported_paused_) || (!reported_done_ && done() && !planted(Bug::kDoneSaidOnce));
  if (has_news) next_ns = std::min(next_ns, now_ns_ + kRetryLast_ns);
  if (turned_away_ && now_ns_ < forced_end_ns()) next_ns = std::min(next_ns, forced_end_ns());
  return next_ns;
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::expire() {
  if (sink_.next_tick_ns() <= now_ns_) sink_.tick(now_ns_);
  // Before deadlines: a thread that did not run for a while looks once more for those who wait.
  if (retry_at_ns_ <= now_ns_) retry_waiting();
  for (Queue* queue : {&handshake_, &room_, &linger_, &parked_}) {
    for (std::uint32_t slot = queue->take_expired(now_ns_); slot != kNoSlot;
         slot = queue->take_expired(now_ns_))
      apply(slot,
            shutting_down_ && !leaving_ && is_early(slot) ? Event::kShutdown : Event::kDeadline);
  }
  if (watch_again_at_ns_ <= now_ns_) watch_mailbox();
  for (std::uint32_t i = 0; i < listeners_.size(); ++i)
    if (listeners_[i].resume_at_ns <= now_ns_) start_accepting(i);
  if (shutting_down_ && !turned_away_ && shutdown_at_ns_ <= now_ns_) turn_all_away();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::retry_waiting() {
  retry_at_ns_ = kNever_ns;
  bool room = retry_queue(parked_);  // they have been told '+': first come, and first served
  room |= retry_queue(room_);
  retry_pause_ns_ = room ? kRetryFirst_ns : std::min(2 * retry_pause_ns_, kRetryLast_ns);
  if (parked_.size() + room_.size() > 0) retry_at_ns_ = now_ns_ + retry_pause_ns_;
}

// True when there was room for somebody.
template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::retry_queue(Queue& queue) {
  bool room = false;
  std::optional<ServiceId> full;  // nobody need ask for it again
  for (std::uint32_t slot = queue.first(); slot != kNoSlot;) {
    const std::uint32_t next = queue.next(slot);
    if (pool_[slot].service != full) {
      const Event event = reserve(slot);
      // Where one that was passed may not go, others may.
      if (event == Event::kNoRoom && !pool_[slot].was_passed) full = pool_[slot].service;
      room |= event == Event::kRoom;
      apply(slot, event);  // kNoRoom: it stays where it is
    }
    slot = next;
  }
  return room;
}

}  // namespace tcpmux
