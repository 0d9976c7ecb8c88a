// The old side of an upgrade: starts the new binary and hands everything over to it
// (upgrade_channel.h has the conversation).
//
//   idle --begin--> starting --ready--> settling --> pausing --> giving --serving--> leaving
//                      |                    |           |           |
//                      '------- failed, gone, too late, abort ------'--> idle, serving as before
//
//   starting   the successor reads its configuration and makes its shards; we serve
//   settling   nobody registers any more; what is on its way to shards and backends arrives
//   pausing    the shards stop accepting (who connects waits in the backlog, which the successor
//              has too) and give their lanes back
//   giving     backends and lanes are told to the successor, which says that it serves, and does
//   leaving    our shards finish their handshakes; who needs a lane is passed on
//
// So each lane has one writer at any time, and until the successor serves nothing is given up.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/result.h"
#include "core/server/event_loop.h"
#include "core/server/listen.h"
#include "core/server/shard_set.h"
#include "handoff/registry.h"
#include "handoff/upgrade_channel.h"

namespace tcpmux::handoff {

struct UpgradeParts {
  EventLoop& loop;
  ShardSet& shards;
  Registry& registry;
  std::string program;                 // what is started: where our own binary was
  std::vector<std::string> arguments;  // ours, the program's name first
};

class Upgrade {
 public:
  explicit Upgrade(UpgradeParts parts);

  // The pid of the successor, once it serves; an error: we go on.
  using Done = std::function<void(const Result<pid_t>& successor)>;
  void begin(const std::vector<ListenAddress>& addresses, Done done);
  bool is_under_way() const { return phase_ != Phase::kIdle && phase_ != Phase::kLeaving; }
  bool is_leaving() const { return phase_ == Phase::kLeaving; }
  // Nothing happens where none is under way.
  void abort(const std::string& why);

  // From the steward's mailbox.
  void shard_paused();
  void pass_on(PassedConnection connection);

 private:
  enum class Phase { kIdle, kStarting, kSettling, kPausing, kGiving, kAborting, kLeaving };

  Status start(const std::vector<ListenAddress>& addresses);
  Status spawn(int channel);
  Status offer(const std::vector<ListenAddress>& addresses);
  void enter(Phase phase);
  void hear();
  void tick();
  void give();
  void leave(pid_t successor);
  void fail_with(const std::string& why);
  void resume();
  void go_on();
  std::string end_successor();

  UpgradeParts parts_;
  Phase phase_ = Phase::kIdle;
  std::int64_t deadline_ns_ = kNever_ns;
  std::optional<UpgradeChannel> channel_;
  pid_t successor_ = 0;
  std::uint32_t shards_paused_ = 0;
  Done done_;
  std::string why_aborted_;
};

}  // namespace tcpmux::handoff
