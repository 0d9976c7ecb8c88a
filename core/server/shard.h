// A shard: one thread with its own listeners, engine, slots and half of the sink. It turns
// completions into events of the connection state machine (core/mux/connection.h) and carries the
// actions out. It shares nothing on the hot path, and once run() is under way it allocates nothing:
// slots, completions, messages and tables' places are sized when it is made.
//
// Ownership: a slot owns its socket from accept until the socket is in a lane's message that was
// sent, was passed to another shard, or is closed. A slot is freed only when nothing of it is in
// flight (Connection::in_flight) and the sink does not hold it.
//
// Deadlines: one queue for each duration; a slot waits in at most one of them.
//
// Its life:   serving --kPause--> paused --kLeave--> leaving --done--> ended by kStop
//                |  '<--kResume-----'                                    ^
//                '--kShutdown--> shutting down --done--------------------'
// Paused, it accepts nobody and has given its lanes away; whoever needs a lane waits. Leaving, it
// finishes its handshakes, and whoever needs a lane goes to the successor. Shutting down, it keeps
// its lanes, and handshakes end at a deadline.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/base/clock.h"
#include "core/base/deadline_queue.h"
#include "core/base/planted.h"
#include "core/base/slot_pool.h"
#include "core/io/backend.h"
#include "core/mux/connection.h"
#include "core/mux/service_table.h"
#include "core/server/connection_slot.h"
#include "core/server/handoff_sink.h"
#include "core/server/messages.h"
#include "core/server/shard_counters.h"
#include "core/server/shard_options.h"
#include "core/server/table_pins.h"

namespace tcpmux {

struct ShardLinks {
  ShardMailbox& own;
  std::span<ShardMailbox* const> all;  // by shard number
  StewardMailbox& steward;
};

template <IoBackend Io, HandoffSink Sink>
class Shard final : public HandoffEvents {
 public:
  Shard(ShardOptions options, std::unique_ptr<Io> io, ShardLinks links, ShardCounters& counters,
        std::shared_ptr<const ServiceTable> table, const typename Sink::Options& sink_options);
  // The engine goes first: until then the kernel may write into slots.
  ~Shard() { io_.reset(); }

  // Serves until a kShutdown message has been carried out, and kStop has come.
  void run();
  // The parts of run(), for who has several shards on one thread (tests/sim).
  void begin();
  void turn();
  bool ended() const { return stop_ && done(); }

  // HandoffEvents
  void handed_off(std::uint32_t slot) override;
  void lane_lost(std::uint32_t slot) override;
  std::uint32_t free_for_taken_back() const override { return pool_.free_count(); }
  void taken_back(PassedConnection connection, bool expired) override;

 private:
  using Queue = DeadlineQueue<Connection>;

  // How long, and how much, we read on after '-', so that no RST overtakes it.
  static constexpr std::int64_t kLinger_ns = 2 * kNanosPerSecond;
  static constexpr std::uint32_t kDrainBytesMax = 4 << 20;
  // How often those who wait for room are looked at: soon, because a backend that is merely busy
  // makes room all the time; and less often the longer there is none.
  static constexpr std::int64_t kRetryFirst_ns = kNanosPerMilli / 5;
  static constexpr std::int64_t kRetryLast_ns = 5 * kNanosPerMilli;
  // After a failed accept; a descriptor may be free by then. And when the mailbox cannot be
  // watched.
  static constexpr std::int64_t kAcceptPause_ns = 20 * kNanosPerMilli;
  static constexpr int kShedAtOnceMax = 16;
  // A socket never waits longer than this for its message to fill while the shard is busy.
  static constexpr std::int64_t kFlushAfter_ns = kNanosPerMilli / 2;
  static constexpr std::size_t kCompletionsAtOnce = 256;
  // Refusals that one shard writes to the log in a second.
  static constexpr std::uint32_t kRefusalsLoggedPerSecond = 10;

  struct Listener {
    ShardListener owned;
    bool accepting = false;
    bool removed = false;                   // its address was taken out of the configuration
    std::int64_t resume_at_ns = kNever_ns;  // kNever_ns exactly when it is not paused
  };

  // --- the turn (shard_turn.h) ---
  void tell_time();
  void handle(const Completion& completion);
  void handle_connection(const Completion& completion);
  Event event_of(Connection& connection, Operation operation, std::int32_t result);
  Event peeked(Connection& connection, std::size_t bytes);
  Event replied(Connection& connection, std::size_t bytes);
  std::int64_t next_deadline_ns() const;
  void expire();
  void retry_waiting();
  bool retry_queue(Queue& queue);

  // --- accepting, messages, shutdown (shard_life.h) ---
  void watch_mailbox();
  void start_accepting(std::uint32_t listener);
  void handle_accept(const Completion& completion);
  void admit(int fd);
  void accept_failed(std::uint32_t listener, int error);
  void receive_messages();
  void receive(ShardMessage& message);
  void adopt(PassedConnection& passed, bool from_shard);
  void change(std::unique_ptr<ShardChange> change);
  void go_on_changing();
  void pause();
  void resume();
  void leave();
  void report_paused();
  void begin_shutdown(std::int64_t deadline_ns);
  void stop_accepting();
  void close_idle_listeners();
  void remove_listener(Listener& listener);
  void close_listener(Listener& listener);
  void turn_all_away();
  bool is_early(std::uint32_t slot) const;
  bool done() const;
  std::int64_t forced_end_ns() const { return shutdown_at_ns_ + 2 * kLinger_ns; }
  void report_done();
  bool may_accept(const Listener& listener) const;

  // --- one connection (shard_connection.h) ---
  Tag tag(std::uint32_t slot, Operation operation);
  void apply(std::uint32_t slot, Event event);
  void note(Connection& connection, State before, Event event);
  std::optional<Event> carry_out(std::uint32_t slot, Action action);
  Event judge(Connection& connection);
  Event reserve(std::uint32_t slot);
  bool pass(std::uint32_t slot, std::uint32_t shard);
  bool pass_on(std::uint32_t slot);
  PassedConnection passed_of(std::uint32_t slot);
  void wait_for_room(std::uint32_t slot);
  void accept(std::uint32_t slot);
  void refuse(std::uint32_t slot);
  void list(std::uint32_t slot);
  void hang_up(std::uint32_t slot);
  void close(std::uint32_t slot);
  void free_slot(std::uint32_t slot);
  std::span<char> room_for_line(Connection& connection) const;
  void set_deadline(std::uint32_t slot, Queue* queue, std::int64_t duration_ns);
  void report(const Connection& connection);

  const ServiceTable& table() const { return tables_.current(); }
  // Not so: known because a backend registered it, or asked for by a client of the process before
  // us, which knew it.
  bool is_configured(ServiceId service) const {
    return service != kNoService && table()[service].configured;
  }

  ShardOptions options_;
  std::unique_ptr<Io> io_;
  ShardLinks links_;
  ShardCounters& counters_;
  TablePins tables_;
  SlotPool<Connection> pool_;
  Queue handshake_;  // Peeking, Taking, and the reply to what will not be served
  Queue room_;       // Reserving, where there was no room at first
  Queue linger_;     // Draining
  Queue parked_;     // Parked
  Sink sink_;
  std::vector<Listener> listeners_;
  // While listeners that it adds wait for the places of such as it removes. No message is received
  // meanwhile.
  std::unique_ptr<ShardChange> changing_;
  std::array<Completion, kCompletionsAtOnce> completions_;

  std::int64_t now_ns_ = 0;         // read once a turn
  std::int64_t real_now_ns_ = 0;    // the same instant as now_ns_, since 1970
  std::int64_t real_ahead_ns_ = 0;  // of now_ns_, when it was looked at last
  std::int64_t real_looked_at_ns_ = kNever_ns;
  std::int64_t watch_again_at_ns_ = kNever_ns;  // kNever_ns exactly when the mailbox is watched
  std::int64_t retry_at_ns_ = kNever_ns;
  std::int64_t retry_pause_ns_ = kRetryFirst_ns;
  std::uint64_t next_id_;
  bool paused_ = false;
  bool reported_paused_ = false;
  bool leaving_ = false;
  bool shutting_down_ = false;
  bool turned_away_ = false;
  bool reported_done_ = false;
  std::uint64_t report_number_ = 0;
  bool stop_ = false;
  std::int64_t shutdown_at_ns_ = kNever_ns;
  std::int64_t accept_failure_logged_ns_ = 0;
  std::int64_t log_window_ns_ = 0;
  std::uint32_t logged_in_window_ = 0;
  std::uint64_t suppressed_ = 0;
};

}  // namespace tcpmux

#include "core/server/shard_connection.h"
#include "core/server/shard_life.h"
#include "core/server/shard_turn.h"
