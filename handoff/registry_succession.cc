// Registry, the part about what changes under it: a new configuration, a successor that takes
// everything over, a predecessor from which everything comes.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/check.h"
#include "handoff/lane_state.h"
#include "handoff/registry.h"

namespace tcpmux::handoff {
namespace {

using nlohmann::json;

}  // namespace

void Registry::change(const RegistryOptions& options, const ServiceTable& configured,
                      std::int64_t stall_ns, std::int64_t deadline_ns) {
  options_.open = options.open;
  options_.users = options.users;
  options_.groups = options.groups;
  options_.window_max = options.window_max;
  auto table = std::make_shared<const ServiceTable>(configured.after(*table_, options.open));
  use_table(table, table->size() + (options.open ? kServicesAhead : 0));
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    message.sink = std::make_unique<TimesCommand>(stall_ns, deadline_ns);
    post(shard, std::move(message));
  }
  for (const auto& [id, backend] : backends_)
    for (const ServiceId service : backend.services)
      if ((*table_)[service].removed)
        SPDLOG_WARN(
            "backend {} (pid {}) serves '{}', which is no longer configured: clients are "
            "told that it is unknown",
            id, backend.peer.pid, (*table_)[service].name);
}

// Shards get places for its services, or for more, before they get the table.
void Registry::use_table(std::shared_ptr<const ServiceTable> table, std::size_t places) {
  const std::size_t wanted = std::max(table->size(), places);
  const bool grows = wanted > options_.services_max;
  if (grows) options_.services_max = static_cast<std::uint32_t>(wanted);
  table_ = std::move(table);
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    ShardMessage message;
    if (grows) {
      message.kind = ShardMessage::Kind::kSink;
      message.sink = std::make_unique<MoreRoutes>(options_.services_max);
      post(shard, std::exchange(message, {}));
    }
    message.kind = ShardMessage::Kind::kTable;
    message.table = table_;
    post(shard, std::move(message));
  }
}

void Registry::pause() {
  paused_ = true;
  look_at_path_ns_ = kNever_ns;
  loop_.remove(socket_.watch_fd());
  loop_.remove(socket_.fd());
  for (const auto& [id, backend] : backends_)
    loop_.remove(backend.connection.get());
}

bool Registry::at_rest() const {
  return std::all_of(outboxes_.begin(), outboxes_.end(),
                     [](const auto& outbox) { return outbox.empty(); }) &&
         std::all_of(backends_.begin(), backends_.end(),
                     [](const auto& one) { return one.second.welcome_at_version == 0; });
}

void Registry::resume() {
  // A successor that failed may have written its pid.
  if (Status claimed = socket_.claim(); !claimed) SPDLOG_WARN("{}", claimed.error().message);
  for (std::unique_ptr<Lane>& lane : std::exchange(away_, {}))
    hand_over(std::move(lane));
  listen_to_all();
}

void Registry::listen_to_all() {
  paused_ = false;
  accept_paused_until_ns_ = kNever_ns;
  // What cannot be listened to now is tried again by tick().
  if (!loop_.add(socket_.fd(), [this] { accept(); }))
    accept_paused_until_ns_ = monotonic_ns() + kNanosPerSecond;
  watch_path();
  std::vector<std::uint64_t> deaf;
  for (const auto& [id, backend] : backends_)
    if (!loop_.add(backend.connection.get(), [this, of = id] { readable(of); })) deaf.push_back(id);
  for (const std::uint64_t id : deaf)
    end(id, "its connection cannot be listened to");
}

void Registry::account_for(const Lane& lane) {
  ++lanes_on_shard_[lane.shard];
  descriptors_used_ += 2;
  windows_used_ += lane.setup.window;
}

// A lane that is away may have lost its backend meanwhile.
void Registry::hand_over(std::unique_ptr<Lane> lane) {
  const std::size_t shard = lane->shard;
  const std::uint64_t id = lane->setup.backend;
  const auto backend = backends_.find(id);
  const bool gone = backend == backends_.end();
  // Known with the lane: else who waits for one would be promised a place in this at once.
  lane->drained = gone || backend->second.draining;
  ShardMessage message;
  message.kind = ShardMessage::Kind::kSink;
  message.sink = std::move(lane);
  post(shard, std::exchange(message, {}));
  if (!gone) return;
  message.kind = ShardMessage::Kind::kSink;
  message.sink = std::make_unique<BackendCommand>(RouterMessage::Kind::kBackendGone, id);
  post(shard, std::move(message));
}

std::size_t Registry::lane_count() const {
  std::size_t count = 0;
  for (const std::uint32_t on_shard : lanes_on_shard_)
    count += on_shard;
  return count;
}

void Registry::give(const Giving& to) const {
  for (const auto& [id, backend] : backends_) {
    const int connection = backend.connection.get();
    to({{"kind", "backend"},
        {"id", id},
        {"connected_ns", backend.connected_ns},
        {"registered", backend.registered},
        {"draining", backend.draining},
        {"window", backend.window},
        {"batch", backend.batch},
        {"lanes", backend.lanes},
        {"names", backend.names},
        {"services", names_of(backend.services)}},
       std::span(&connection, 1));
  }
  for (const std::unique_ptr<Lane>& lane : away_) {
    const std::array<int, 2> ends = {lane->setup.ours.get(), lane->setup.copy_of_theirs.get()};
    json state = lane_state(*lane);
    state["kind"] = "lane";
    state["services"] = names_of(lane->setup.services);
    to(state, ends);
  }
  to({{"kind", "end"}, {"next_id", next_id_}}, {});
}

// A connection that both hold does not end for its backend when the successor ends it.
void Registry::give_up() {
  given_up_ = true;
  socket_.give_up();
  backends_.clear();
  away_.clear();
  lanes_on_shard_.assign(lanes_on_shard_.size(), 0);
  descriptors_used_ = 0;
  windows_used_ = 0;
}

Status Registry::inherit(const json& state, std::vector<OwnFd> descriptors) {
  const std::string kind = state.at("kind");
  const std::size_t expected = kind == "backend" ? 1 : kind == "lane" ? 2 : 0;
  if (descriptors.size() != expected)
    return fail("'" + kind + "' came with " + std::to_string(descriptors.size()) + " descriptors");
  if (kind == "backend") return inherit_backend(state, std::move(descriptors[0]));
  if (kind == "lane")
    return inherit_lane(state, std::move(descriptors[0]), std::move(descriptors[1]));
  if (kind == "end") return inherit_end(state);
  return fail("'" + kind + "' is not known here");
}

Status Registry::inherit_backend(const json& state, OwnFd connection) {
  Result<Credentials> peer = credentials_of(connection.get());
  if (!peer) return std::unexpected(peer.error());
  auto services = services_named(state.at("services"));
  if (!services) return std::unexpected(services.error());
  const std::uint64_t id = state.at("id");
  Backend& backend = backends_[id];
  backend.id = id;
  backend.connection = std::move(connection);
  backend.peer = *std::move(peer);
  backend.connected_ns = state.at("connected_ns");
  backend.registered = state.at("registered");
  backend.draining = state.at("draining");
  backend.window = state.at("window");
  backend.batch = state.at("batch");
  backend.lanes = state.at("lanes");
  backend.names = state.at("names");
  backend.services = *std::move(services);
  ++descriptors_used_;
  return {};
}

// Lanes stay on the shard of the same number, where there is one.
Status Registry::inherit_lane(const json& state, OwnFd ours, OwnFd theirs) {
  auto services = services_named(state.at("services"));
  if (!services) return std::unexpected(services.error());
  Result<std::unique_ptr<Lane>> made =
      lane_from(state, *std::move(services), std::move(ours), std::move(theirs));
  if (!made) return std::unexpected(made.error());
  std::unique_ptr<Lane> lane = *std::move(made);
  lane->shard = static_cast<std::uint32_t>(lane->shard % shards_.size());
  if (lanes_on_shard_[lane->shard] >= options_.lanes_per_shard_max)
    return fail("there are more lanes than the shards have places for");
  const auto backend = backends_.find(lane->setup.backend);
  if (backend != backends_.end()) backend->second.shards |= std::uint64_t{1} << lane->shard;
  account_for(*lane);
  away_.push_back(std::move(lane));
  return {};
}

Status Registry::inherit_end(const json& state) {
  next_id_ = state.at("next_id");
  resume();
  std::vector<ServiceId> all;
  for (const auto& [id, backend] : backends_)
    all.insert(all.end(), backend.services.begin(), backend.services.end());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  send_routes(all);
  return {};
}

// A name that our configuration does not have was registered under another one, and stays.
Result<std::vector<ServiceId>> Registry::services_named(const std::vector<std::string>& names) {
  std::vector<ServiceId> ids;
  std::shared_ptr<const ServiceTable> table = table_;
  for (const std::string& name : names) {
    if (table->find(name) == kNoService) {
      Result<ServiceTable> grown =
          table->with(Service{.name = name, .configured = false, .removed = !options_.open});
      if (!grown) return std::unexpected(grown.error());
      table = std::make_shared<const ServiceTable>(*std::move(grown));
    }
    ids.push_back(table->find(name));
  }
  if (table != table_) use_table(std::move(table));
  return ids;
}

}  // namespace tcpmux::handoff
