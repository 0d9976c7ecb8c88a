// The running daemon: everything from a good configuration to the end of the process. It builds the
// parts, wires them to each other, and carries out what changes them all: a reload, an upgrade, the
// end. On the steward's thread.
//
//   made (make) --> serving --SIGTERM, drain--> shutting down --all shards done--> ended
//                      '-----upgrade: the successor serves--> leaving --all done-----'
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/server/config.h"
#include "core/server/control_socket.h"
#include "core/server/event_loop.h"
#include "core/server/limits.h"
#include "core/server/listen.h"
#include "core/server/shard_set.h"
#include "core/server/status.h"
#include "core/server/steward.h"
#include "handoff/registry.h"
#include "handoff/takeover.h"
#include "handoff/upgrade.h"
#include "tools/tcpmuxd/engine.h"
#include "tools/tcpmuxd/log.h"

namespace tcpmux {

// How this process was started, for the next one.
struct Origin {
  CommandLine options;
  std::string program;                 // the path of our binary, which may be replaced meanwhile
  std::vector<std::string> arguments;  // argv
};

class Daemon {
 public:
  // `takeover`: of the daemon that started us, which has made its offer.
  Daemon(Origin origin, Config config, std::optional<handoff::Takeover> takeover);

  // Makes everything; nobody is served yet. An error leaves nothing behind.
  Status make();
  // Takes over, if there is what to; serves until the end. The exit status. Where the end is
  // forced, the process ends here, and `logging` before it.
  Result<int> run(std::unique_ptr<Logging>& logging);
  // To the daemon that started us, if one did: why we do not take its place.
  void say_failed(const std::string& why);

 private:
  // How long an address that is no longer configured is still served: longer than a client needs
  // for the handshake of TCP and for its line.
  static constexpr std::int64_t kLeave_ns = 2 * kNanosPerSecond;

  // --- making (daemon.cc) ---
  Status make_limits();
  Status make_registry();
  Status make_listening();
  Status make_steward();
  Status make_shards();
  Status open_control();
  Status take_over();
  std::vector<ShardOptions> shard_options();
  ShardSettings shard_settings() const;
  handoff::RegistryOptions registry_options() const;
  std::string addresses() const;
  std::string summary() const;
  void log_start() const;

  // --- what others ask for (daemon_changes.cc) ---
  StewardHooks hooks();
  ControlHandlers control_handlers();
  StatusSources status_sources();
  std::string_view state() const;
  // What changes at once; a remark for each thing that does not. An error: nothing has changed.
  Result<std::vector<std::string>> reload();
  Result<std::vector<std::string>> apply(Config next);
  void change_shards(std::vector<std::vector<ShardListener>> added);
  void leave_addresses();
  void upgrade(const ControlReply* reply);
  void take_client(PassedConnection client, const std::string& service);

  const std::int64_t started_ns_;
  Origin origin_;
  Config config_;
  std::optional<handoff::Takeover> takeover_;
  std::uint32_t shard_count_;
  Limits limits_;
  Engine engine_;
  std::vector<OwnFd> inherited_;        // from a service manager, until they are listened on
  Listening listening_;                 // without by_shard, once the shards have that
  std::vector<std::uint32_t> removed_;  // addresses that the shards are to be told of next
  std::int64_t leave_at_ns_ = kNever_ns;
  std::uint32_t connections_now_ = 0;  // as configured now, for each shard
  std::shared_ptr<const ServiceTable> first_table_;
  StewardMailbox steward_mailbox_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ShardSet> shards_;
  std::unique_ptr<handoff::Registry> registry_;
  std::unique_ptr<Steward> steward_;
  std::unique_ptr<handoff::Upgrade> upgrade_;
  std::unique_ptr<ControlSocket> control_;
  std::uint32_t next_shard_ = 0;       // that gets a client of the process before us
  bool predecessor_is_there_ = false;  // and may still pass clients on to us
};

}  // namespace tcpmux
