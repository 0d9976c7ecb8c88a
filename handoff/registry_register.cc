// Registry, the part about one Register message: may this peer have these names, and what is it
// given?
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/planted.h"
#include "core/server/memory_reserve.h"
#include "handoff/ancillary.h"
#include "handoff/lane_sockets.h"
#include "handoff/registry.h"

namespace tcpmux::handoff {
namespace {

// At least what a lane keeps for each place of its window.
constexpr std::size_t kPlaceBytes = 16;

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names)
    all += (all.empty() ? "" : ", ") + name;
  return all;
}

}  // namespace

void Registry::handle_register(Backend& backend, std::span<const std::byte> message) {
  if (backend.registered && !planted(Bug::kRegisteredTwice)) {
    refuse(backend, {RefuseCode::kMalformed, "a connection registers once: open another one"});
    return;
  }
  const Result<Register> asked = decode_register(message);
  if (!asked) {
    refuse(backend, {RefuseCode::kMalformed, "malformed Register: " + asked.error().message});
    return;
  }
  if (shutting_down_) {
    refuse(backend, {RefuseCode::kShuttingDown, "the mux is shutting down; try again later"});
    return;
  }
  std::expected<void, Refused> done = check_names(backend, *asked);
  if (done) done = serve(backend, *asked);
  if (!done) refuse(backend, done.error());
}

std::expected<void, Registry::Refused> Registry::check_names(const Backend& backend,
                                                             const Register& asked) const {
  for (const std::string& name : asked.names) {
    if (const auto why = why_not_a_service_name(name))
      return std::unexpected(Refused{RefuseCode::kBadName, *why});
    const ServiceId id = table_->find(name);
    const bool configured = id != kNoService && (*table_)[id].configured;
    if (!configured && !options_.open)
      return std::unexpected(Refused{RefuseCode::kUnknownService,
                                     "no service '" + name + "' is configured: add [services." +
                                         name +
                                         "] to the configuration, or set registry.open = true"});
    if (auto allowed = check_user(backend, name); !allowed) return allowed;
  }
  return {};
}

std::expected<void, Registry::Refused> Registry::check_user(const Backend& backend,
                                                            const std::string& name) const {
  const Credentials& peer = backend.peer;
  const auto has = [&](const std::vector<uid_t>& users) {
    return std::find(users.begin(), users.end(), peer.uid) != users.end();
  };
  if (peer.uid == 0 || peer.uid == ::geteuid() || has(options_.users)) return {};
  if (std::any_of(options_.groups.begin(), options_.groups.end(),
                  [&](gid_t group) { return peer.in_group(group); }))
    return {};
  const ServiceId id = table_->find(name);
  if (id != kNoService && !(*table_)[id].removed && has((*table_)[id].users)) return {};
  return std::unexpected(Refused{
      RefuseCode::kNotAllowed, "user " + user_name(peer.uid) + " (uid " + std::to_string(peer.uid) +
                                   ") may not register '" + name +
                                   "': neither registry.users nor registry.groups nor "
                                   "services." +
                                   name + ".users lists it"});
}

// The ids of the names; those that nobody configured become services, in a new table.
std::expected<std::vector<ServiceId>, Registry::Refused> Registry::services_of(
    const Register& asked) {
  std::vector<ServiceId> ids;
  std::shared_ptr<const ServiceTable> table = table_;
  for (const std::string& name : asked.names) {
    const ServiceId known = table->find(name);
    if (known == kNoService || (*table)[known].removed) {
      if (known == kNoService && table->size() >= options_.services_max)
        return std::unexpected(
            Refused{RefuseCode::kNoRoom, "no place is left for names that are not configured"});
      Result<ServiceTable> grown = table->with(Service{.name = name, .configured = false});
      if (!grown) return std::unexpected(Refused{RefuseCode::kBadName, grown.error().message});
      table = std::make_shared<const ServiceTable>(*std::move(grown));
    }
    const ServiceId id = table->find(name);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  if (table == table_) return ids;
  use_table(std::move(table));
  return ids;
}

std::expected<std::uint32_t, Registry::Refused> Registry::grant_window(const Register& asked,
                                                                       std::uint32_t lanes) const {
  const std::uint32_t wanted =
      asked.window == 0 ? options_.window_max : std::min(asked.window, options_.window_max);
  const std::uint64_t left =
      options_.windows_max > windows_used_ ? options_.windows_max - windows_used_ : 0;
  if (left < lanes)
    return std::unexpected(Refused{
        RefuseCode::kNoRoom,
        "as many sockets as the kernel lets one user pass may already wait in other lanes; raise "
        "the descriptor limit of tcpmuxd, or ask for smaller windows"});
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(wanted, left / lanes));
}

// Lanes are spread over the shards, beginning with another one for each backend.
std::size_t Registry::shard_of(const Backend& backend, std::uint32_t lane) const {
  return (backend.id + lane) % shards_.size();
}

std::expected<std::vector<std::unique_ptr<Lane>>, Registry::Refused> Registry::make_lanes(
    const Backend& backend, const Register& asked, std::uint32_t count, std::uint32_t window) {
  std::vector<std::unique_ptr<Lane>> lanes;
  for (std::uint32_t i = 0; i < count; ++i) {
    Result<LaneSockets> pair = make_lane_sockets(asked.lane_kind);
    if (!pair)
      return std::unexpected(Refused{RefuseCode::kNoRoom, "no lane: " + pair.error().message});
    const Result<std::uint32_t> fits = fit_window(pair->ours.get(), window);
    if (!fits)
      return std::unexpected(Refused{RefuseCode::kNoRoom, "no lane: " + fits.error().message});
    window = std::min(window, *fits);
    Lane::Setup setup{.ours = std::move(pair->ours),
                      .copy_of_theirs = std::move(pair->theirs),
                      .backend = backend.id,
                      .services = backend.services,
                      .kind = asked.lane_kind,
                      .without_addresses = asked.without_addresses,
                      .window = window,
                      .batch = std::min(asked.batch, options_.batch_max)};
    lanes.push_back(std::make_unique<Lane>(std::move(setup)));
    lanes.back()->shard = static_cast<std::uint32_t>(shard_of(backend, i));
  }
  return lanes;
}

std::expected<void, Registry::Refused> Registry::check_room(const Backend& backend,
                                                            std::uint32_t lanes) const {
  if (descriptors_used_ + 2 * lanes > options_.descriptors_max)
    return std::unexpected(Refused{RefuseCode::kNoRoom,
                                   "no descriptors are left for its lanes; raise the descriptor "
                                   "limit of tcpmuxd (ulimit -n, LimitNOFILE=)"});
  const auto shards = static_cast<std::uint32_t>(shards_.size());
  const std::uint32_t on_one_shard = (lanes + shards - 1) / shards;
  for (std::uint32_t i = 0; i < lanes; ++i)
    if (lanes_on_shard_[shard_of(backend, i)] + on_one_shard > options_.lanes_per_shard_max)
      return std::unexpected(Refused{RefuseCode::kNoRoom, "too many backends are registered"});
  return {};
}

std::expected<void, Registry::Refused> Registry::serve(Backend& backend, const Register& asked) {
  const auto count = asked.lanes == 0
                         ? static_cast<std::uint32_t>(std::min(shards_.size(), kLanesMax))
                         : std::uint32_t{asked.lanes};
  if (auto room = check_room(backend, count); !room) return room;
  const auto window = grant_window(asked, count);
  if (!window) return std::unexpected(window.error());
  if (!memory_is_there_for(count * (sizeof(Lane) + *window * kPlaceBytes)))
    return std::unexpected(
        Refused{RefuseCode::kNoRoom,
                "tcpmuxd is short of memory; raise its limit (ulimit -v, MemoryMax=)"});
  auto services = services_of(asked);
  if (!services) return std::unexpected(services.error());
  backend.services = *std::move(services);
  auto lanes = make_lanes(backend, asked, count, *window);
  if (!lanes) return std::unexpected(lanes.error());
  backend.names = joined(asked.names);
  hand_to_shards(backend, *std::move(lanes));
  return {};
}

void Registry::hand_to_shards(Backend& backend, std::vector<std::unique_ptr<Lane>> lanes) {
  backend.registered = true;
  backend.window = lanes.back()->setup.window;  // the smallest
  backend.batch = lanes.back()->setup.batch;
  backend.lanes = static_cast<std::uint32_t>(lanes.size());
  for (std::unique_ptr<Lane>& lane : lanes) {
    const std::size_t shard = lane->shard;
    backend.far_ends.push_back(lane->setup.copy_of_theirs.get());
    backend.shards |= std::uint64_t{1} << shard;
    account_for(*lane);
    hand_over(std::move(lane));
  }
  send_routes(backend.services);
  backend.welcome_at_version = routes_version_;
}

// The far ends are open: a lane is given back only after its backend's end, which we announce.
bool Registry::welcome(Backend& backend) {
  backend.welcome_at_version = 0;
  const std::vector<int> far_ends = std::exchange(backend.far_ends, {});
  const std::vector<std::byte> message =
      encode(Welcome{.lanes = static_cast<std::uint16_t>(far_ends.size()),
                     .window = backend.window,
                     .batch = backend.batch});
  if (send_now(backend.connection.get(), message, far_ends) != 0) return false;
  SPDLOG_INFO("backend {} (pid {}, user {}) serves {}: {} lanes, window {}, batch {}", backend.id,
              backend.peer.pid, user_name(backend.peer.uid), backend.names, far_ends.size(),
              backend.window, backend.batch);
  return true;
}

}  // namespace tcpmux::handoff
