#include "tools/tcpmuxd/daemon.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/server/memory_reserve.h"
#include "core/server/service_manager.h"
#include "tools/tcpmuxd/log.h"

#ifdef TCPMUX_MIMALLOC
#include <mimalloc.h>
#endif

namespace tcpmux {
namespace {

constexpr std::size_t kStewardMessagesMax = 4096;

std::size_t most_listeners(const Listening& listening) {
  std::size_t most = 0;
  for (const auto& of_shard : listening.by_shard)
    most = std::max(most, of_shard.size());
  return most;
}

}  // namespace

Daemon::Daemon(Origin origin, Config config, std::optional<handoff::Takeover> takeover)
    : started_ns_(monotonic_ns()),
      origin_(std::move(origin)),
      config_(std::move(config)),
      takeover_(std::move(takeover)),
      shard_count_(config_.shards != 0 ? config_.shards : std::min(kShardsMax, usable_cores())),
      first_table_(std::make_shared<const ServiceTable>(config_.services)),
      steward_mailbox_(kStewardMessagesMax) {}

Status Daemon::make() {
  auto loop = EventLoop::create();
  if (!loop) return std::unexpected(loop.error());
  loop_ = *std::move(loop);
  shards_ = std::make_unique<ShardSet>(shard_count_);
  if (!steward_mailbox_.is_open() || !shards_->is_open())
    return fail_errno("eventfd, for the threads to speak to each other by");
  if (!takeover_) {
    Result<std::vector<OwnFd>> inherited = inherited_listeners();
    if (!inherited) return std::unexpected(inherited.error());
    inherited_ = *std::move(inherited);
  }
  if (Status made = make_limits(); !made) return made;
  // The table of descriptors grows before there are threads (limits.h).
  grow_descriptor_table(limits_.descriptors_used);
  if (Status made = make_registry(); !made) return made;
  if (Status made = make_steward(); !made) return made;
  Result<Engine> engine = choose_engine(config_.engine);
  if (!engine) return std::unexpected(engine.error());
  engine_ = *std::move(engine);
  if (Status made = make_listening(); !made) return made;
  // A successor takes the path when it serves.
  if (!takeover_)
    if (Status made = open_control(); !made) return made;
  if (!keep_memory_reserve()) return fail("memory is too short; raise its limit (ulimit -v)");
  if (Status made = make_shards(); !made) return made;
  use_memory_reserve();
  return {};
}

Status Daemon::make_limits() {
  const Result<std::uint32_t> descriptors = raise_descriptor_limit();
  if (!descriptors) return std::unexpected(descriptors.error());
  std::size_t listeners = listeners_per_shard(config_, inherited_);
  if (takeover_) listeners = std::max(listeners, takeover_->address_count());
  const Result<Limits> limits =
      divide_descriptors(*descriptors, shard_count_, static_cast<std::uint32_t>(listeners),
                         config_.handshake.connections_per_shard_max);
  if (!limits) return std::unexpected(limits.error());
  limits_ = *limits;
  connections_now_ = limits_.connections_per_shard;
  return {};
}

handoff::RegistryOptions Daemon::registry_options() const {
  const std::size_t ahead = config_.registry.open ? handoff::kServicesAhead : 0;
  return {.path = config_.registry.path,
          .open = config_.registry.open,
          .users = config_.registry.users,
          .groups = config_.registry.groups,
          .window_max = config_.handoff.window_max,
          .batch_max = limits_.sockets_per_message_max,
          .lanes_per_shard_max = kLanesPerShardMax,
          .descriptors_max = limits_.backend_descriptors,
          .windows_max = may_pass_any_number_of_sockets()
                             ? std::numeric_limits<std::uint64_t>::max()
                             : limits_.descriptors - 1,
          .services_max = static_cast<std::uint32_t>(config_.services.size() + ahead)};
}

Status Daemon::make_registry() {
  if (!takeover_) {
    auto opened =
        handoff::Registry::open(registry_options(), *loop_, first_table_, shards_->mailboxes());
    if (!opened) return std::unexpected(opened.error());
    registry_ = *std::move(opened);
    return {};
  }
  if (takeover_->registry_path() != config_.registry.path)
    return fail("the registry is at " + takeover_->registry_path() + " and would be at " +
                config_.registry.path + " (registry.path, --registry): that needs a restart");
  if (takeover_->lane_count() > std::size_t{kLanesPerShardMax} * shard_count_)
    return fail(std::to_string(takeover_->lane_count()) + " lanes are more than " +
                std::to_string(shard_count_) + " shards have places for; keep more shards");
  registry_ = handoff::Registry::take_over(registry_options(), takeover_->take_registry(), *loop_,
                                           first_table_, shards_->mailboxes());
  return {};
}

Status Daemon::make_steward() {
  auto steward = Steward::create(*loop_, steward_mailbox_, *shards_, config_.handshake.deadline_ms);
  if (!steward) return std::unexpected(steward.error());
  steward_ = *std::move(steward);
  upgrade_ =
      std::make_unique<handoff::Upgrade>(handoff::UpgradeParts{.loop = *loop_,
                                                               .shards = *shards_,
                                                               .registry = *registry_,
                                                               .program = origin_.program,
                                                               .arguments = origin_.arguments});
  steward_->set_hooks(hooks());
  return {};
}

Status Daemon::make_listening() {
  Result<Listening> made;
  if (takeover_) {
    made = take_over_listening(config_, takeover_->take_addresses(), shard_count_);
  } else {
    made = start_listening(config_, std::move(inherited_), shard_count_);
  }
  if (!made) return std::unexpected(made.error());
  listening_ = *std::move(made);
  if (!listening_.leaving.empty()) leave_at_ns_ = monotonic_ns() + kLeave_ns;
  loop_->add_deadline([this] { return leave_at_ns_; }, [this] { leave_addresses(); });
  const std::size_t most = most_listeners(listening_);
  if (most > kAcceptsMax)
    return fail(std::to_string(most) + " listeners for one shard are too many (there are at most " +
                std::to_string(kAcceptsMax) + "): configure more shards, or fewer addresses");
  return {};
}

ShardSettings Daemon::shard_settings() const {
  return {.connections_max = limits_.connections_per_shard,
          .line_bytes_max = config_.handshake.line_bytes_max,
          .handshake_deadline_ns = config_.handshake.deadline_ms * kNanosPerMilli,
          .room_wait_ns = config_.handoff.room_wait_ms * kNanosPerMilli,
          .handoff_deadline_ns = config_.handoff.deadline_ms * kNanosPerMilli,
          .help_enabled = config_.help_enabled};
}

std::vector<ShardOptions> Daemon::shard_options() {
  std::vector<ShardOptions> all;
  for (auto& listeners : listening_.by_shard) {
    ShardOptions one;
    static_cast<ShardSettings&>(one) = shard_settings();
    one.number = static_cast<std::uint32_t>(all.size());
    one.listeners = std::move(listeners);
    one.busy_max = limits_.busy_per_shard;
    one.taken_back_max = limits_.taken_back_per_shard;
    all.push_back(std::move(one));
  }
  listening_.by_shard.clear();
  return all;
}

Status Daemon::make_shards() {
  return prepare_shards(engine_, *shards_, shard_options(), config_, limits_, *registry_,
                        steward_mailbox_, std::exchange(first_table_, nullptr));
}

Status Daemon::open_control() {
  if (config_.control_path().empty()) return {};
  auto opened =
      ControlSocket::open({.path = config_.control_path(),
                           .if_served = takeover_ ? IfServed::kTakeOver : IfServed::kRefuse},
                          *loop_, control_handlers());
  if (!opened) return std::unexpected(opened.error());
  control_ = *std::move(opened);
  return {};
}

// Backends and lanes stand in the shards' mailboxes when those begin to serve.
Status Daemon::take_over() {
  if (Status taken = takeover_->take_everything(*registry_); !taken) return taken;
  // Said before it is done: were we killed after our shards have begun and before it is said, the
  // other one would go on with lanes that we have written into. What comes between cannot fail.
  if (Status said = takeover_->serving(); !said) return said;
  shards_->serve();
  // All is ours by now, so this is no reason not to serve.
  if (Status opened = open_control(); !opened) SPDLOG_ERROR("{}", opened.error().message);
  const Status heard = takeover_->listen(
      *loop_,
      [this](PassedConnection client, const std::string& service) {
        take_client(std::move(client), service);
      },
      [this] {
        predecessor_is_there_ = false;
        // Its last clients are on their way to shards that may have been done before.
        steward_->ask_shards_again();
        // It has told the service manager that we are the main process, to whom it listens now.
        tell_ready("serving on " + addresses());
      });
  predecessor_is_there_ = heard.has_value();
  if (!heard) SPDLOG_ERROR("the daemon before us cannot be heard: {}", heard.error().message);
  return {};
}

std::string Daemon::addresses() const {
  std::string all;
  for (const ListenAddress& address : listening_.addresses)
    all += (all.empty() ? "" : ", ") + to_string(address.real);
  return all;
}

void Daemon::log_start() const {
  for (const std::string& remark : listening_.remarks)
    SPDLOG_WARN("{}", remark);
  if (limits_.connections_per_shard < config_.handshake.connections_per_shard_max)
    SPDLOG_WARN(
        "handshake.connections_per_shard_max is {} instead of {}: the descriptor limit is {} "
        "(ulimit -n, LimitNOFILE=)",
        limits_.connections_per_shard, config_.handshake.connections_per_shard_max,
        limits_.descriptors);
  SPDLOG_INFO("tcpmuxd {} started: pid {}, engine {}, {} shards, listening on {}{}; registry {}",
              TCPMUX_VERSION, ::getpid(), engine_.words, shard_count_, addresses(),
              listening_.inherited() ? " (passed to us)" : "", config_.registry.path);
  if (takeover_) SPDLOG_INFO("took over {} backends", registry_->backend_count());
  if (!config_.control_path().empty()) SPDLOG_INFO("control socket {}", config_.control_path());
#ifdef TCPMUX_MIMALLOC
  SPDLOG_DEBUG("allocator mimalloc {}", mi_version());
#endif
}

void Daemon::say_failed(const std::string& why) {
  if (takeover_) takeover_->failed(why);
}

Result<int> Daemon::run(std::unique_ptr<Logging>& logging) {
  if (takeover_) {
    if (Status taken = take_over(); !taken) return std::unexpected(taken.error());
  } else {
    shards_->serve();
  }
  log_start();
  tell_ready("serving on " + addresses());
  loop_->run();
  if (steward_->forced()) {
    // The shards are at work, so nothing of them can be torn down.
    steward_->log_counters();
    logging.reset();
    ::_exit(1);
  }
  registry_->say_goodbye();
  shards_->send_all([] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kStop;
    return message;
  });
  shards_->join();
  steward_->log_counters();
  SPDLOG_INFO("stopped");
  return 0;
}

}  // namespace tcpmux
