// The steward: the one thread beside the shards. It owns the loop in which the registry lives too,
// takes signals, writes what shards report to the log, and leads the shutdown:
//
//   serving --SIGTERM, SIGINT--> draining (shards finish their handshakes) --> stopped
//                                    '--a second signal: the process ends at once
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/server/event_loop.h"
#include "core/server/messages.h"
#include "core/server/shard_set.h"

namespace tcpmux {

// What the other parts on this thread (the registry, the daemon) are told. All are set.
struct StewardHooks {
  std::function<void(std::unique_ptr<SinkMessage>)> sink;
  std::function<void(const StewardMessage&)> sink_notice;
  std::function<void()> shutdown_begins;
  std::function<void()> reload;   // SIGHUP
  std::function<void()> upgrade;  // SIGUSR2
  // For the successor.
  std::function<void()> shard_paused;
  std::function<void(PassedConnection)> passed_on;
  // All shards have done what kShutdown or kLeave asked for.
  std::function<void()> shards_done;
};

class Steward {
 public:
  // Signals must be blocked already (block_signals), in this thread and those it starts.
  static Result<std::unique_ptr<Steward>> create(EventLoop& loop, StewardMailbox& mailbox,
                                                 ShardSet& shards, std::int64_t drain_ms);

  void set_hooks(StewardHooks hooks) { hooks_ = std::move(hooks); }
  void begin_shutdown(const char* why);
  bool shutting_down() const { return shutting_down_; }
  // Shards that were done may have got something since: hooks.shards_done() once more, when all
  // are.
  void ask_shards_again();
  // A new configuration: how long a shutdown may take.
  void set_drain_ms(std::int64_t drain_ms) { drain_ms_ = drain_ms; }
  // After the loop has stopped: by a second signal, so that shards may still be at work.
  bool forced() const { return forced_; }
  // One line with the sums of all counters.
  void log_counters() const;

 private:
  Steward(EventLoop& loop, StewardMailbox& mailbox, ShardSet& shards, std::int64_t drain_ms,
          OwnFd signals);
  void receive_signals();
  void receive_messages();
  void receive(StewardMessage& message);
  void log_refusal(const RefusalRecord& record) const;

  EventLoop& loop_;
  StewardMailbox& mailbox_;
  ShardSet& shards_;
  std::int64_t drain_ms_;
  OwnFd signals_;
  StewardHooks hooks_;
  std::uint32_t shards_done_ = 0;
  std::uint64_t report_number_ = 0;  // of the reports that count
  bool shutting_down_ = false;
  bool forced_ = false;
};

// SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 are then received by the steward alone; SIGPIPE is
// ignored.
void block_signals();

}  // namespace tcpmux
