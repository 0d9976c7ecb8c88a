// One thread's connections: begins them as the schedule says, carries out what their dialogues ask
// for, and counts how they end. Connections live in slots that are made at the start, with a buffer
// each; a connection allocates nothing.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/counters.h"
#include "core/base/deadline_queue.h"
#include "core/base/slot_pool.h"
#include "tools/load/dial.h"
#include "tools/load/dialogue.h"
#include "tools/load/load_io.h"
#include "tools/load/schedule.h"
#include "tools/load/tally.h"

namespace load {

// What a thread lets others see while it runs.
struct Progress {
  tcpmux::Counter completed;
  tcpmux::Counter failed;
  tcpmux::Counter messages;
  tcpmux::Counter held;  // connections that have said all and are kept open
  tcpmux::Counter open;  // added when one begins and
  tcpmux::Counter over;  // when it ends
};

struct WorkerOptions {
  const Script* script = nullptr;
  const Dialer* dialer = nullptr;
  KindMix kinds;
  std::uint32_t slots = 64;
  std::int64_t timeout_ns = 0;
  std::uint64_t first_number = 0;  // of the connections, so that threads differ
  const std::atomic<bool>* stop = nullptr;
};

template <LoadIo Io>
class Worker {
 public:
  Worker(const WorkerOptions& options, Io& io, Progress& progress)
      : options_(options),
        io_(io),
        progress_(progress),
        buffer_bytes_(std::clamp<std::size_t>(options.script->options().message_bytes + kSpareBytes,
                                              kSpareBytes, kBufferBytesMax)),
        buffers_(std::make_unique_for_overwrite<char[]>(buffer_bytes_ * options.slots)),
        slots_(options.slots),
        deadlines_(slots_) {}

  // Until the schedule is over and every connection has ended. At `until_ns` held connections end,
  // and sessions with the message that is under way.
  Tally run(Schedule schedule, std::int64_t until_ns) {
    tally_ = {};
    until_ns_ = until_ns;
    for (;;) {
      now_ns_ = tcpmux::monotonic_ns();
      if (options_.stop->load(std::memory_order_relaxed)) schedule.stop();
      begin_due(schedule);
      expire();
      if (holding_over()) let_go();
      if (slots_.taken_count() == 0 && schedule.over(now_ns_)) break;
      const std::size_t count = io_.wait(completions_, wake_ns(schedule));
      now_ns_ = tcpmux::monotonic_ns();
      session_over_ = now_ns_ >= until_ns_ || options_.stop->load(std::memory_order_relaxed);
      for (std::size_t i = 0; i < count; ++i)
        handle(completions_[i]);
    }
    io_.wait({}, now_ns_);  // what was closed last is closed now
    return std::move(tally_);
  }

 private:
  struct Connection {
    tcpmux::DeadlineLink deadline;
    std::uint32_t generation = 0;
    std::uint32_t next_free = tcpmux::kNoSlot;
    int fd = -1;
    std::uint8_t in_flight = 0;  // operations
    bool connected = false;
    bool ending = false;  // with `outcome`, when none is in flight
    Outcome outcome = Outcome::kCompleted;
    std::int64_t start_ns = 0;  // intended
    std::int64_t begun_ns = 0;
    std::int64_t said_ns = 0;  // the last message
    Dialogue dialogue;
  };

  static constexpr std::size_t kSpareBytes = 512;
  static constexpr std::size_t kBufferBytesMax = 64 * 1024;
  // How long the wish to stop may go unseen.
  static constexpr std::int64_t kNap_ns = 100 * tcpmux::kNanosPerMilli;

  std::span<char> buffer_of(std::uint32_t slot) {
    return {buffers_.get() + slot * buffer_bytes_, buffer_bytes_};
  }
  std::int64_t wake_ns(const Schedule& schedule) const {
    return std::min(
        {schedule.next_ns(slots_.taken_count()), deadlines_.next_ns(), now_ns_ + kNap_ns});
  }

  // --- the beginning ---

  void begin_due(Schedule& schedule) {
    while (const auto start = schedule.take(now_ns_, slots_.taken_count())) {
      const Kind kind = options_.kinds.next();
      ++tally_.started;
      if (start->expired) {
        count(kind, Outcome::kTimedOut);
        continue;
      }
      // Without a port or a descriptor, others have to end before the next can begin.
      if (!begin(kind, start->start_ns, schedule.begun() + options_.first_number)) return;
      now_ns_ = tcpmux::monotonic_ns();  // an engine may connect on the spot
    }
  }

  bool begin(Kind kind, std::int64_t start_ns, std::uint64_t number) {
    const int fd = options_.dialer->make_socket(number, Io::kSocketFlags);
    if (fd < 0) {
      count(kind, Outcome::kLocal);
      return false;
    }
    const std::uint32_t slot = slots_.take();
    TCPMUX_CHECK(slot != tcpmux::kNoSlot, "the schedule begins no more than there are slots");
    Connection& connection = slots_[slot];
    connection.fd = fd;
    connection.connected = false;
    connection.ending = false;
    connection.start_ns = start_ns;
    connection.begun_ns = connection.said_ns = now_ns_;
    progress_.open.add();
    deadlines_.join(slot, start_ns + options_.timeout_ns);
    connection.in_flight = 1;
    io_.connect(slot, fd,
                {.address = options_.dialer->target(), .size = options_.dialer->target_size()});
    const Step step = connection.dialogue.begin(*options_.script, kind, number);
    perform(slot, step);
    return true;
  }

  // --- what happens ---

  void handle(const Completion& completion) {
    const std::uint32_t slot = completion.slot;
    Connection& connection = slots_[slot];
    --connection.in_flight;
    if (connection.ending) return end_if_idle(slot);
    // What was sent or received shows that the connection is there, should that be told later.
    if (!connection.connected && completion.result >= 0 && !become_connected(slot)) return;
    if (completion.operation == Operation::kConnect && completion.result == 0) return;
    Step step = advance(connection, completion);
    take_times(connection, step);
    if (step.message && session_over_) step = Dialogue::cut_short();
    perform(slot, step);
  }

  // False when that was all that was wanted.
  bool become_connected(std::uint32_t slot) {
    Connection& connection = slots_[slot];
    connection.connected = true;
    connection.said_ns = now_ns_;
    tally_.connect.record(now_ns_ - connection.begun_ns);
    const Step step = connection.dialogue.on_connected();
    perform(slot, step);
    if (step.what == Step::What::kFinish) return false;
    hold_if_wanted(slot);
    return true;
  }

  Step advance(Connection& connection, const Completion& completion) {
    Dialogue& dialogue = connection.dialogue;
    if (completion.result < 0) return dialogue.on_error(-completion.result);
    if (completion.operation == Operation::kSend) return dialogue.on_sent();
    if (completion.result == 0) return dialogue.on_end();
    return dialogue.on_received(
        buffer_of(completion.slot).first(static_cast<std::size_t>(completion.result)));
  }

  void take_times(const Connection& connection, const Step& step) {
    const std::int64_t since_start_ns = now_ns_ - connection.start_ns;
    if (step.reply) tally_.reply.record(since_start_ns);
    if (step.reply && connection.dialogue.reply().starts_with('+')) ++tally_.accepted;
    if (step.first_byte) tally_.first_byte.record(since_start_ns);
    if (!step.message) return;
    ++tally_.messages;
    tally_.bytes_echoed += options_.script->options().message_bytes;
    progress_.messages.add();
    if (connection.dialogue.kind() == Kind::kSession)
      tally_.round_trip.record(now_ns_ - connection.said_ns);
  }

  void perform(std::uint32_t slot, const Step& step) {
    Connection& connection = slots_[slot];
    switch (step.what) {
      case Step::What::kWait:
        return;
      case Step::What::kSend:
        return send(slot, step.bytes);
      case Step::What::kReceive:
        return receive(slot);
      case Step::What::kSendAndReceive:
        connection.said_ns = now_ns_;
        send(slot, step.bytes);
        return receive(slot);
      case Step::What::kFinish:
        return end(slot, step.outcome);
    }
  }

  void send(std::uint32_t slot, std::span<const char> bytes) {
    ++slots_[slot].in_flight;
    io_.send(slot, slots_[slot].fd, bytes);
  }

  void receive(std::uint32_t slot) {
    ++slots_[slot].in_flight;
    io_.receive(slot, slots_[slot].fd, buffer_of(slot));
  }

  // --- holding ---

  void hold_if_wanted(std::uint32_t slot) {
    if (!options_.script->options().hold || !slots_[slot].dialogue.is_waiting()) return;
    deadlines_.leave(slot);
    progress_.held.add();
  }

  bool holding_over() const {
    return options_.script->options().hold &&
           (now_ns_ >= until_ns_ || options_.stop->load(std::memory_order_relaxed));
  }

  void let_go() {
    for (std::uint32_t slot = 0; slot < slots_.capacity(); ++slot)
      if (slots_.taken(slot) && !slots_[slot].ending) end(slot, Outcome::kHeld);
  }

  // --- the end ---

  void expire() {
    for (;;) {
      const std::uint32_t slot = deadlines_.take_expired(now_ns_);
      if (slot == tcpmux::kNoSlot) return;
      if (!slots_[slot].ending) end(slot, Outcome::kTimedOut);
    }
  }

  void end(std::uint32_t slot, Outcome outcome) {
    Connection& connection = slots_[slot];
    connection.ending = true;
    connection.outcome = outcome;
    if (connection.in_flight > 0) io_.cancel(slot, connection.fd);
    end_if_idle(slot);
  }

  void end_if_idle(std::uint32_t slot) {
    Connection& connection = slots_[slot];
    if (connection.in_flight > 0) return;
    if (deadlines_.holds(slot)) deadlines_.leave(slot);
    if (connection.outcome == Outcome::kDenied) tally_.count_denial(connection.dialogue.reply());
    count(connection.dialogue.kind(), connection.outcome);
    io_.close(slot, connection.fd);
    slots_.give_back(slot);
    progress_.over.add();
  }

  void count(Kind kind, Outcome outcome) {
    tally_.count(kind, outcome);
    if (outcome == Outcome::kCompleted) progress_.completed.add();
    if (is_failure(outcome)) progress_.failed.add();
  }

  WorkerOptions options_;
  Io& io_;
  Progress& progress_;
  std::size_t buffer_bytes_;
  std::unique_ptr<char[]> buffers_;
  tcpmux::SlotPool<Connection> slots_;
  tcpmux::DeadlineQueue<Connection> deadlines_;
  std::array<Completion, 256> completions_;
  Tally tally_;
  std::int64_t now_ns_ = 0;
  std::int64_t until_ns_ = 0;
  bool session_over_ = false;
};

}  // namespace load
