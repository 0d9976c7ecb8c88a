// Daemon, the part about what others ask of it while it runs.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/clock.h"
#include "core/server/service_manager.h"
#include "tools/tcpmuxd/daemon.h"
#include "tools/tcpmuxd/log.h"

namespace tcpmux {

using nlohmann::json;

StewardHooks Daemon::hooks() {
  return {.sink = [this](std::unique_ptr<SinkMessage> m) { registry_->receive(std::move(m)); },
          .sink_notice = [this](const StewardMessage& n) { registry_->receive_notice(n); },
          .shutdown_begins =
              [this] {
                upgrade_->abort("we are shutting down");
                if (!upgrade_->is_leaving()) tell_stopping("handshakes finish");
                registry_->begin_shutdown();
              },
          .reload = [this] { static_cast<void>(reload()); },
          .upgrade = [this] { upgrade(nullptr); },
          .shard_paused = [this] { upgrade_->shard_paused(); },
          .passed_on = [this](PassedConnection c) { upgrade_->pass_on(std::move(c)); },
          // While the process before us is there, it may have clients for us.
          .shards_done =
              [this] {
                if (!predecessor_is_there_) loop_->stop();
              }};
}

std::string_view Daemon::state() const {
  if (upgrade_->is_leaving()) return "leaving";
  if (steward_->shutting_down()) return "draining";
  return upgrade_->is_under_way() ? "upgrading" : "serving";
}

StatusSources Daemon::status_sources() {
  return {.engine = engine_.uring ? "io_uring" : "epoll",
          .engine_remark = engine_.words,
          .started_ns = started_ns_,
          .configuration = origin_.options.config_path,
          .registry = config_.registry.path,
          .control = config_.control_path(),
          .descriptors = limits_.descriptors,
          .shards = *shards_,
          .state = [this] { return state(); },
          .listening =
              [this] {
                std::vector<Endpoint> endpoints;
                for (const ListenAddress& address : listening_.addresses)
                  endpoints.push_back(address.real);
                return endpoints;
              },
          .backends = [this] { return registry_->backends(); }};
}

// What `tcpmux ctl` can ask of us.
ControlHandlers Daemon::control_handlers() {
  ControlHandlers handlers;
  handlers["status"] = [status = status_sources()](const json&, const ControlReply& reply) {
    reply.send(status_of(status));
  };
  handlers["drain"] = [this](const json&, const ControlReply& reply) {
    reply.send({{"ok", true}, {"state", "draining"}});
    if (!steward_->shutting_down()) steward_->begin_shutdown("tcpmux ctl drain");
  };
  handlers["reload"] = [this](const json&, const ControlReply& reply) {
    const auto reloaded = reload();
    if (reloaded)
      reply.send({{"ok", true}, {"services", config_.services.size()}, {"remarks", *reloaded}});
    else
      reply.send({{"ok", false}, {"error", reloaded.error().message}});
  };
  handlers["upgrade"] = [this](const json&, const ControlReply& reply) { upgrade(&reply); };
  return handlers;
}

Result<std::vector<std::string>> Daemon::reload() {
  Result<std::vector<std::string>> done = fail("the daemon is being replaced, or ends");
  if (state() == "serving") {
    tell_reloading();
    Result<Config> next = load_config(origin_.options);
    done = next ? apply(*std::move(next)) : std::unexpected(next.error());
    tell_ready("serving on " + addresses());
  }
  if (!done) {
    SPDLOG_ERROR("not reloaded, the old configuration stays: {}", done.error().message);
    return done;
  }
  for (const std::string& remark : *done)
    SPDLOG_WARN("reload: {}", remark);
  SPDLOG_INFO("reloaded: {}", summary());
  return done;
}

std::string Daemon::summary() const {
  return std::to_string(config_.services.size()) + " services, listening on " + addresses();
}

// First what can fail.
Result<std::vector<std::string>> Daemon::apply(Config next) {
  std::vector<std::string> remarks;
  const auto keep = [&](auto& ours, auto& theirs, const char* key, const char* how) {
    if (ours == theirs) return;
    remarks.push_back(std::string(key) + " changes with " + how);
    theirs = ours;
  };
  keep(config_.shards, next.shards, "shards", "an upgrade (tcpmux ctl upgrade)");
  keep(config_.engine, next.engine, "engine", "an upgrade (tcpmux ctl upgrade)");
  keep(config_.registry.path, next.registry.path, "registry.path", "a restart");
  keep(config_.control.path, next.control.path, "control.path", "an upgrade (tcpmux ctl upgrade)");
  const std::size_t listeners =
      listening_.inherited() ? listening_.addresses.size() : next.listen.size();
  const Result<Limits> limits =
      divide_descriptors(limits_.descriptors, shard_count_, static_cast<std::uint32_t>(listeners),
                         next.handshake.connections_per_shard_max);
  if (!limits) return std::unexpected(limits.error());
  Result<Listening> listening = change_listening(listening_, next, shard_count_);
  if (!listening) return std::unexpected(listening.error());
  if (listening_.inherited() && next.listen != config_.listen)
    remarks.push_back("listen is not looked at: the sockets were passed to us (LISTEN_FDS)");
  std::ranges::copy(listening->remarks, std::back_inserter(remarks));

  config_ = std::move(next);
  set_log_level(config_.log_level);
  steward_->set_drain_ms(config_.handshake.deadline_ms);
  registry_->change(registry_options(), config_.services, config_.handoff.stall_ms * kNanosPerMilli,
                    config_.handoff.deadline_ms * kNanosPerMilli);
  connections_now_ = limits->connections_per_shard;
  if (connections_now_ > limits_.connections_per_shard)
    remarks.push_back("handshake.connections_per_shard_max stays " +
                      std::to_string(limits_.connections_per_shard) +
                      ": it becomes more with an upgrade (tcpmux ctl upgrade)");
  // Those of a reload just before leave now, so that there are never more than of two.
  removed_ = std::exchange(listening_.leaving, {});
  auto added = std::exchange(listening->by_shard, {});
  listening_ = *std::move(listening);
  change_shards(std::move(added));
  if (!listening_.leaving.empty()) leave_at_ns_ = monotonic_ns() + kLeave_ns;
  return remarks;
}

// `added`: by shard. What the configuration says holds from then on.
void Daemon::change_shards(std::vector<std::vector<ShardListener>> added) {
  // Slots are made once, so there are never more than at first.
  ShardSettings settings = shard_settings();
  settings.connections_max = std::min(connections_now_, limits_.connections_per_shard);
  std::size_t shard = 0;
  shards_->send_all([&] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kChange;
    message.change = std::make_unique<ShardChange>();
    message.change->settings = settings;
    if (!added.empty()) message.change->added = std::move(added[shard++]);
    message.change->removed = removed_;
    return message;
  });
  removed_.clear();
}

void Daemon::leave_addresses() {
  leave_at_ns_ = kNever_ns;
  removed_ = std::exchange(listening_.leaving, {});
  if (!removed_.empty()) change_shards({});
}

void Daemon::upgrade(const ControlReply* reply) {
  std::function<void(const json&)> answer = [](const json&) {};
  if (reply != nullptr) answer = [waiting = *reply](const json& text) { waiting.send(text); };
  const std::int64_t began_ns = monotonic_ns();
  const auto done = [answer, began_ns](const Result<pid_t>& successor) {
    if (!successor) {
      SPDLOG_WARN("not upgraded: {}", successor.error().message);
      answer({{"ok", false}, {"error", successor.error().message}});
      return;
    }
    tell_main_pid(*successor);
    const std::int64_t took_ms = (monotonic_ns() - began_ns) / kNanosPerMilli;
    answer({{"ok", true},
            {"old_pid", ::getpid()},
            {"new_pid", *successor},
            {"milliseconds", took_ms}});
  };
  if (steward_->shutting_down()) {
    done(fail("the daemon is shutting down"));
    return;
  }
  leave_addresses();  // the successor gets none of them
  upgrade_->begin(listening_.addresses, done);
}

// From the process before us; the shard that has no room finds another.
void Daemon::take_client(PassedConnection client, const std::string& service) {
  client.service = registry_->table().find(service);
  ShardMessage message;
  message.kind = ShardMessage::Kind::kInherited;
  message.connection = std::move(client);
  while (!shards_->mailboxes()[next_shard_++ % shard_count_]->send(std::move(message))) {
  }
}

}  // namespace tcpmux
