// Shard, the part about what begins and ends: accepting, messages from other threads, connections
// that come from elsewhere, and the shutdown. Included by shard.h alone.
#pragma once

#include <algorithm>
#include <cerrno>

#include "core/io/immediate.h"
#include "core/server/shard.h"

namespace tcpmux {

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::start_accepting(std::uint32_t index) {
  Listener& listener = listeners_[index];
  listener.resume_at_ns = kNever_ns;
  listener.accepting = true;
  io_->accept({.operation = Operation::kAccept, .slot = {.index = index}},
              listener.owned.socket.get());
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::handle_accept(const Completion& completion) {
  if (completion.result >= 0) admit(completion.result);
  if (completion.more) return;
  Listener& listener = listeners_[completion.tag.slot.index];
  listener.accepting = false;
  if (shutting_down_) {
    close_listener(listener);
  } else if (listener.removed) {
    remove_listener(listener);
  } else if (paused_) {
    return;
  } else if (completion.result >= 0 || completion.result == -ECANCELED) {
    start_accepting(completion.tag.slot.index);
  } else {
    accept_failed(completion.tag.slot.index, -completion.result);
  }
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::admit(int fd) {
  counters_.accepted.add();
  const bool busy = pool_.taken_count() >= options_.connections_max;
  // The slots for taken back sockets are no newcomer's.
  const bool none_left = pool_.free_count() <= options_.taken_back_max;
  const std::uint32_t slot = none_left ? kNoSlot : pool_.take();
  if (slot == kNoSlot) {
    counters_.refused[static_cast<std::size_t>(Refusal::kBusy)].add();
    io_->dismiss(fd, refusal_reply(Refusal::kBusy));
    io_->close(fd);
    return;
  }
  Connection& connection = pool_[slot];
  connection.fd = fd;
  connection.state = State::kPeeking;
  connection.refusal = Refusal::kUnknown;
  connection.was_passed = connection.was_accepted = false;
  connection.line_bytes = connection.sent_bytes = 0;
  connection.service = kNoService;
  connection.source = connection.destination = {};
  connection.id = next_id_++;
  connection.accepted_ns = real_now_ns_;
  connection.lane = kNoLane;
  connection.line.clear();
  set_deadline(slot, &handshake_, options_.handshake_deadline_ns);
  if (busy) {
    connection.refusal = Refusal::kBusy;
    apply(slot, Event::kLineRefused);
  } else {
    carry_out(slot, Action::kPeek);
  }
}

// At the descriptor limit: those who wait are told, by the descriptor in reserve, as far as that
// goes; then accepting rests for a moment, because trying again at once would fail again.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::accept_failed(std::uint32_t index, int error) {
  Listener& listener = listeners_[index];
  for (int i = 0; i < kShedAtOnceMax; ++i) {
    if (io_->shed(listener.owned.socket.get(), refusal_reply(Refusal::kBusy)) != Shed::kOne) break;
    counters_.accepted.add();
    counters_.shed.add();
    counters_.refused[static_cast<std::size_t>(Refusal::kBusy)].add();
  }
  listener.resume_at_ns = now_ns_ + kAcceptPause_ns;
  if (now_ns_ < accept_failure_logged_ns_ + kNanosPerSecond) return;
  StewardMessage message;
  message.kind = StewardMessage::Kind::kAcceptFailed;
  message.number = static_cast<std::uint64_t>(error);
  if (links_.steward.send(std::move(message))) accept_failure_logged_ns_ = now_ns_;
}

// An engine that is short of memory may refuse to, or give up: then again after a pause. What came
// meanwhile is received at once.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::watch_mailbox() {
  watch_again_at_ns_ = kNever_ns;
  io_->watch_wakeups({.operation = Operation::kWakeup}, links_.own.wakeup_fd());
  receive_messages();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::receive_messages() {
  ShardMessage message;
  while (changing_ == nullptr && links_.own.receive(message))
    receive(message);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::receive(ShardMessage& message) {
  switch (message.kind) {
    case ShardMessage::Kind::kNone:
      return;
    case ShardMessage::Kind::kConnection:
      adopt(message.connection, true);
      return;
    case ShardMessage::Kind::kInherited:
      counters_.inherited.add();
      message.connection.id = 0;  // ids are of one process; this one was told to nobody yet
      adopt(message.connection, false);
      return;
    case ShardMessage::Kind::kTable:
      tables_.replace(message.table);
      sink_.use_table(std::move(message.table));
      return;
    case ShardMessage::Kind::kSink:
      sink_.receive(std::move(message.sink), now_ns_);
      // It may be the lane that somebody waits for.
      if (parked_.size() + room_.size() > 0) retry_waiting();
      return;
    case ShardMessage::Kind::kChange:
      change(std::move(message.change));
      return;
    case ShardMessage::Kind::kPause:
      pause();
      return;
    case ShardMessage::Kind::kResume:
      resume();
      return;
    case ShardMessage::Kind::kLeave:
      leave();
      return;
    case ShardMessage::Kind::kShutdown:
      begin_shutdown(message.deadline_ns);
      return;
    case ShardMessage::Kind::kReport:
      reported_done_ = false;
      report_number_ = message.number;
      return;
    case ShardMessage::Kind::kStop:
      stop_ = true;
      return;
  }
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::adopt(PassedConnection& passed, bool from_shard) {
  const std::uint32_t slot = pool_.take();
  if (slot == kNoSlot) {
    // Every slot is taken, so nothing better than to close can be done.
    if (passed.was_accepted) counters_.closed_without_backend.add();
    if (!passed.was_accepted) counters_.refused[static_cast<std::size_t>(Refusal::kBusy)].add();
    passed.socket.reset();
    return;
  }
  Connection& connection = pool_[slot];
  connection.fd = passed.socket.release();
  connection.state = passed.was_accepted ? State::kParked : State::kReserving;
  connection.was_passed = from_shard;
  connection.was_accepted = passed.was_accepted;
  connection.line_bytes = passed.line_bytes;
  connection.sent_bytes = 0;
  connection.service = passed.service;
  connection.source = passed.source;
  connection.destination = passed.destination;
  connection.id = passed.id != 0 ? passed.id : next_id_++;
  connection.accepted_ns = passed.accepted_ns;
  connection.lane = kNoLane;
  connection.line.clear();
  if (passed.deadline_ns != kNever_ns) parked_.join(slot, passed.deadline_ns);
  apply(slot, reserve(slot));
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::taken_back(PassedConnection connection, bool expired) {
  counters_.taken_back.add();
  if (expired) {
    counters_.closed_without_backend.add();
    return;
  }
  adopt(connection, false);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::handed_off(std::uint32_t slot) {
  counters_.handed_off.add();
  apply(slot, Event::kHandedOff);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::lane_lost(std::uint32_t slot) {
  apply(slot, Event::kLaneLost);
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::change(std::unique_ptr<ShardChange> change) {
  if (shutting_down_) return;
  static_cast<ShardSettings&>(options_) = change->settings;
  for (std::uint32_t i = 0; i < listeners_.size(); ++i) {
    Listener& listener = listeners_[i];
    const auto& removed = change->removed;
    if (std::find(removed.begin(), removed.end(), listener.owned.address) == removed.end())
      continue;
    if (!listener.owned.socket.valid()) continue;
    listener.removed = true;
    listener.resume_at_ns = kNever_ns;
    if (listener.accepting) {
      io_->cancel({.operation = Operation::kAccept, .slot = {.index = i}},
                  listener.owned.socket.get());
    } else {
      remove_listener(listener);
    }
  }
  changing_ = std::move(change);
  go_on_changing();
}

// A place is free when the accept of who had it has ended, not before.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::go_on_changing() {
  for (ShardListener& added : changing_->added) {
    if (!added.socket.valid()) continue;
    auto free = std::find_if(listeners_.begin(), listeners_.end(),
                             [](const Listener& one) { return !one.owned.socket.valid(); });
    if (free == listeners_.end()) {
      if (listeners_.size() == listeners_.capacity()) return;
      free = listeners_.emplace(free);
    }
    *free = {.owned = std::move(added)};
    if (!paused_) start_accepting(static_cast<std::uint32_t>(free - listeners_.begin()));
  }
  changing_.reset();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::stop_accepting() {
  for (std::uint32_t i = 0; i < listeners_.size(); ++i) {
    Listener& listener = listeners_[i];
    listener.resume_at_ns = kNever_ns;
    if (listener.accepting)
      io_->cancel({.operation = Operation::kAccept, .slot = {.index = i}},
                  listener.owned.socket.get());
  }
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::pause() {
  if (shutting_down_) return;
  paused_ = true;
  reported_paused_ = false;
  stop_accepting();
}

// Once nothing is accepted any more, and all lanes are on their way.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::report_paused() {
  const bool accepting = std::any_of(listeners_.begin(), listeners_.end(),
                                     [](const Listener& one) { return one.accepting; });
  if (!sink_.give_lanes_away(now_ns_) || accepting) return;
  StewardMessage message;
  message.kind = StewardMessage::Kind::kShardPaused;
  message.number = options_.number;
  reported_paused_ = links_.steward.send(std::move(message));
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::resume() {
  if (!std::exchange(paused_, false)) return;
  for (std::uint32_t i = 0; i < listeners_.size(); ++i)
    if (may_accept(listeners_[i])) start_accepting(i);
  // The lanes came first. Who waits has come before those who are accepted now.
  if (parked_.size() + room_.size() > 0) retry_waiting();
}

template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::may_accept(const Listener& listener) const {
  return listener.owned.socket.valid() && !listener.accepting && !listener.removed;
}

// The successor has our listeners, so closing our copies resets nobody.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::leave() {
  TCPMUX_CHECK(paused_ && reported_paused_,
               "a shard leaves when it has nothing that it could lose");
  leaving_ = shutting_down_ = true;
  paused_ = false;
  for (Listener& listener : listeners_)
    listener.owned.inherited = true;
  close_idle_listeners();
  if (parked_.size() + room_.size() > 0) retry_waiting();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::begin_shutdown(std::int64_t deadline_ns) {
  if (shutting_down_) return;
  shutting_down_ = true;
  shutdown_at_ns_ = deadline_ns;
  stop_accepting();
  close_idle_listeners();
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::close_idle_listeners() {
  for (Listener& listener : listeners_)
    if (!listener.accepting && listener.owned.socket.valid()) close_listener(listener);
}

// A shard that is done still answers to the others until all are: one of them may pass it a
// connection that was told '+'.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::report_done() {
  StewardMessage message;
  message.kind = StewardMessage::Kind::kShardDone;
  message.number = report_number_;
  reported_done_ = links_.steward.send(std::move(message));
}

// Nobody will ask at this address any more, but those who have already are served.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::remove_listener(Listener& listener) {
  const int fd = listener.owned.socket.get();
  while (!listener.owned.inherited) {
    const int accepted = io_->accept_now(fd);
    if (accepted >= 0) admit(accepted);
    if (accepted < 0 && classify_accept_error(-accepted) != AcceptError::kOfOneConnection) break;
  }
  io_->close(listener.owned.socket.release());
}

// Closing a listener resets whoever waits in its backlog, so they are told first.
template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::close_listener(Listener& listener) {
  const int fd = listener.owned.socket.get();
  while (!listener.owned.inherited &&
         io_->shed(fd, refusal_reply(Refusal::kShuttingDown)) == Shed::kOne) {
    counters_.accepted.add();
    counters_.refused[static_cast<std::size_t>(Refusal::kShuttingDown)].add();
  }
  io_->close(listener.owned.socket.release());
}

template <IoBackend Io, HandoffSink Sink>
void Shard<Io, Sink>::turn_all_away() {
  turned_away_ = true;
  for (Queue* queue : {&handshake_, &room_, &parked_}) {
    for (std::uint32_t slot = queue->first(); slot != kNoSlot;) {
      const std::uint32_t next = queue->next(slot);
      if (is_early(slot)) apply(slot, Event::kShutdown);
      if (queue == &parked_) apply(slot, Event::kDeadline);
      slot = next;
    }
  }
}

// Before any reply: it can still be told that we are shutting down.
template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::is_early(std::uint32_t slot) const {
  const State state = pool_[slot].state;
  return state == State::kPeeking || state == State::kTaking || state == State::kReserving;
}

// Lanes that do not take what was promised to them are given as long again as clients are to read
// their refusal; then the backends' registrations end with the process.
template <IoBackend Io, HandoffSink Sink>
bool Shard<Io, Sink>::done() const {
  if (!shutting_down_) return false;
  if (turned_away_ && now_ns_ >= forced_end_ns()) return true;
  const bool listening = std::any_of(listeners_.begin(), listeners_.end(),
                                     [](const Listener& one) { return one.owned.socket.valid(); });
  return !listening && pool_.taken_count() == 0 && sink_.idle();
}

}  // namespace tcpmux
