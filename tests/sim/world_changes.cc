// World, the part about what changes while the mux serves: configurations, clocks, and the mux
// itself (handoff/upgrade.cc is what the upgrade is modelled on; what the two processes tell each
// other goes through production's own texts).
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "handoff/lane_state.h"
#include "handoff/upgrade_channel.h"
#include "tests/sim/world.h"

namespace tcpmux::sim {
namespace {

constexpr std::int64_t kJump_ns = 5 * kNanosPerSecond;
constexpr std::size_t kEverything = SIZE_MAX;

}  // namespace

// Every later table has the services of those before it, under the same ids.
void World::make_table() {
  const auto count = static_cast<std::uint32_t>(context_.dials[Dial::kServices]);
  const std::size_t version = tables_.size();
  std::vector<Service> services;
  for (std::uint32_t i = 0; i < count; ++i) {
    Service service{.name = service_name(i)};
    if (version > 0) service.message = fmt::format("table {}", version);
    service.hidden = context_.random.below(8) == 0;
    services.push_back(std::move(service));
  }
  services.push_back({.name = std::string(kLonelyName)});
  Result<AccessRules> nobody = AccessRules::build({*parse_prefix("127.0.0.0/8")}, {});
  services.push_back({.name = std::string(kForbiddenName), .access = *std::move(nobody)});
  services.back().hidden = version % 2 != 0;
  for (std::size_t i = 0; i < version % 4; ++i)
    services.push_back({.name = fmt::format("later-{}", i)});
  Result<ServiceTable> table = ServiceTable::build(std::move(services));
  if (!table) broken(0, table.error().message);
  tables_.push_back(std::make_shared<const ServiceTable>(*std::move(table)));
}

// A new table, and new settings: deadlines become longer at most, so that the old ones stay good
// for what the invariants say of them.
void World::change_configuration() {
  make_table();
  context_.note(What::kTable, tables_.size() - 1);
  ShardSettings settings = settings_of(context_);
  Random& random = context_.random;
  settings.connections_max = 1 + random.below(settings.connections_max);
  settings.line_bytes_max = static_cast<std::uint32_t>(random.between(32, 512));
  settings.handshake_deadline_ns += random.skewed(settings.handshake_deadline_ns);
  settings.room_wait_ns += random.skewed(settings.room_wait_ns);
  const std::int64_t longer_ns = random.skewed(settings.handoff_deadline_ns);
  settings.handoff_deadline_ns += longer_ns;
  settings.help_enabled = random.below(4) != 0;
  kernel_.enter(current().number());
  handoff::RegistryOptions options = registry_options_of(context_);
  options.open &= random.below(4) != 0;
  options.window_max = 1 + random.below(options.window_max);
  current().registry->change(options, *tables_.back(), context_.ms(Dial::kStallMs),
                             context_.ms(Dial::kHandoffMs) + longer_ns);
  current().loop_due_ns = 0;  // it may have to send more
  for (std::uint32_t i = 0; i < current().size(); ++i) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kChange;
    message.change = std::make_unique<ShardChange>();
    message.change->settings = settings;
    current().mail.post(i, std::move(message));
  }
}

void World::jump() {
  const std::int64_t by_ns = context_.random.skewed(kJump_ns);
  context_.note(What::kJump, 0, by_ns);
  context_.now_ns += by_ns;
  last_jump_ns_ = context_.now_ns;
  ledger_.time_has_jumped();
}

// --- the upgrade ---

void World::begin_upgrade() {
  context_.note(What::kUpgradeBegins, 0);
  upgrade_ = Upgrade::kSettling;
  current().registry->pause();
}

// Nothing that the registry has said may be on its way when the shards pause.
void World::settle() {
  if (!current().registry->at_rest()) return;
  upgrade_ = Upgrade::kPausing;
  current().shards_paused = 0;
  current().post_all(ShardMessage::Kind::kPause);
}

void World::shard_paused(Process& process) {
  if (++process.shards_paused < process.size()) return;
  for (const auto& seat : process.seats)
    seat->engine->lanes_have_gone();
  ledger_.time_has_jumped();
  upgrade_ = Upgrade::kNone;
  upgraded_ns_ = context_.now_ns;
  if (shutdown_at_ns_ != kNever_ns || context_.random.below(4) == 0) return go_on();
  succeed();
}

// The successor did not come to serve, or ended after it was told a part of everything.
void World::go_on() {
  context_.note(What::kUpgradeFails, 0);
  Process& process = current();
  if (context_.random.below(2) == 0) {
    begin_successor();
    give_everything(context_.random.below(8));
    const std::uint32_t number = predecessor()->number();
    processes_[1 - current_].reset();
    if (kernel_.open_in(number) > 0)
      broken(1,
             fmt::format("a successor that failed leaves {} descriptors", kernel_.open_in(number)));
  }
  kernel_.enter(process.number());
  process.registry->resume();
  // Mailboxes are filled at once; where one is too small, a shard goes on without its lanes.
  process.mail.deliver_all_of_steward();
  if (!process.registry->at_rest() || !process.mail.steward_has_said_all())
    backends_.serve(process);
  process.post_all(ShardMessage::Kind::kResume);
  process.loop_due_ns = 0;
}

void World::begin_successor() {
  const auto next = static_cast<std::uint32_t>(1 - current_);
  kernel_.enter(next);
  processes_[next] =
      std::make_unique<Process>(parts(), next * kShardsMax / kProcessesMax, tables_.back(),
                                registry_options_of(context_), &current());
}

// The first `most` of what the registry tells its successor, as the two write it down for each
// other, and the descriptors with it. True when that was all, with its end.
bool World::give_everything(std::size_t most) {
  Process& after = *predecessor();
  std::size_t given = 0;
  bool is_all = false;
  current().registry->give([&](const nlohmann::json& state, std::span<const int> descriptors) {
    const nlohmann::json heard = nlohmann::json::parse(state.dump());
    is_all = heard.at("kind") == "end" && most == kEverything;
    if (++given > most || (heard.at("kind") == "end" && !is_all)) return;
    std::vector<OwnFd> copies;
    for (const int fd : descriptors)
      copies.emplace_back(kernel_.duplicate(fd));
    if (Status taken = after.registry->inherit(heard, std::move(copies)); !taken)
      broken(7, "the registry's state is not understood: " + taken.error().message);
  });
  return is_all;
}

void World::succeed() {
  ++result_.upgrades;
  Process& before = current();
  begin_successor();
  if (!give_everything(kEverything)) broken(7, "the registry's state has no end");
  current_ = 1 - current_;
  context_.note(What::kUpgradeServes, current_);
  before.registry->give_up();
  current().mail.deliver_all_of_steward();
  check_registry(current());
  backends_.serve(current());
  current().begin(context_, kernel_);
  before.leaving_since_ns = context_.now_ns;
  before.post_all(ShardMessage::Kind::kLeave);
  call_steward(current());
}

// From one process to the other, as they write it down for each other.
void World::pass_on(PassedConnection connection) {
  const int fd = connection.socket.get();
  const Client& client = clients_[kernel_.file(fd).index];
  context_.note(What::kPassesOn, client.serial);
  ++ledger_.of(kernel_.file(fd).owner).passed_on;
  kernel_.give_to(fd, kNobody);
  kernel_.enter(current().number());
  kernel_.adopt(fd);
  const std::string service =
      connection.service == kNoService ? "" : (*tables_.back())[connection.service].name;
  const nlohmann::json state = handoff::client_state(connection, service);
  ShardMessage message;
  message.kind = ShardMessage::Kind::kInherited;
  message.connection =
      handoff::client_from(nlohmann::json::parse(state.dump()), std::move(connection.socket));
  message.connection.service = tables_.back()->find(service);
  ++ledger_.inherited;
  current().mail.post(context_.random.below(current().size()), std::move(message));
}

}  // namespace tcpmux::sim
