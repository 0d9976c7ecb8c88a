// World, the part about how it is made, and how it ends.
#include <fmt/format.h>

#include "tests/sim/world.h"

namespace tcpmux::sim {
namespace {

constexpr std::uint32_t kClientsAtOnceMax = 512;
constexpr std::uint32_t kServicesMax = 16;

}  // namespace

World* world = nullptr;

World::World(Context& context)
    : context_(context),
      clients_(context, kClientsAtOnceMax),
      kernel_(context, clients_),
      ledger_(context, kernel_),
      mail_(context, kernel_, ledger_, static_cast<std::uint32_t>(context.dials[Dial::kShards])),
      backends_({context, kernel_, clients_, ledger_, mail_},
                static_cast<std::uint32_t>(context.dials[Dial::kShards]), lanes_max()),
      steward_(static_cast<std::size_t>(context.dials[Dial::kMailbox])),
      to_come_(static_cast<std::uint64_t>(context.dials[Dial::kConnections])) {
  world = this;
  kernel_.set_descriptors_max(descriptors_max());
  make_table();
  backends_.set_tables(&tables_);
  const auto shards = static_cast<std::uint32_t>(context_.dials[Dial::kShards]);
  for (std::uint32_t i = 0; i < shards; ++i)
    make_shard(i);
}

World::~World() {
  world = nullptr;
}

std::uint32_t World::lanes_max() const {
  const std::int64_t backends = context_.dials[Dial::kBackends] + 2;
  return static_cast<std::uint32_t>(backends * context_.dials[Dial::kShards]);
}

// As core/server/limits.cc divides them: slots, lanes, and what a shard needs itself.
std::uint32_t World::descriptors_max() const {
  const Dials& dials = context_.dials;
  const std::int64_t of_shard =
      dials[Dial::kSlots] + dials[Dial::kBusySlots] + dials[Dial::kTakenBackSlots] + 2;
  return static_cast<std::uint32_t>(of_shard * dials[Dial::kShards] + 2 * lanes_max() +
                                    dials[Dial::kSpareDescriptors]);
}

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

void World::swap_table() {
  make_table();
  context_.note(What::kTable, tables_.size() - 1);
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kTable;
    message.table = tables_.back();
    mail_.post(i, std::move(message));
  }
}

void World::make_shard(std::uint32_t number) {
  const Dials& dials = context_.dials;
  seats_.push_back(std::make_unique<Seat>());
  Seat& seat = *seats_.back();
  ShardOptions options;
  options.number = number;
  options.listeners.push_back(
      {.socket = OwnFd(kernel_.open({File::Kind::kListener, kNobody, number}))});
  kernel_.listener(number).open = true;
  options.connections_max = static_cast<std::uint32_t>(dials[Dial::kSlots]);
  options.busy_max = static_cast<std::uint32_t>(dials[Dial::kBusySlots]);
  options.taken_back_max = static_cast<std::uint32_t>(dials[Dial::kTakenBackSlots]);
  options.line_bytes_max = static_cast<std::uint32_t>(dials[Dial::kLineBytesMax]);
  options.handshake_deadline_ns = context_.ms(Dial::kHandshakeMs);
  options.room_wait_ns = context_.ms(Dial::kRoomWaitMs);
  options.handoff_deadline_ns = context_.ms(Dial::kHandoffMs);
  seat.slots = options.connections_max + options.busy_max + options.taken_back_max;
  auto engine =
      std::make_unique<SimBackend>(SimBackend::Parts{context_, kernel_, clients_, ledger_}, number);
  seat.engine = engine.get();
  handoff::RouterOptions router;
  router.shard = number;
  router.services_max = kServicesMax;
  router.lanes_max = kLanesPerShardMax;
  router.stall_ns = context_.ms(Dial::kStallMs);
  router.deadline_ns = context_.ms(Dial::kHandoffMs);
  router.steward = &steward_;
  router.routes_version = &seat.routes_version;
  const ShardLinks links{
      .own = mail_.own(number), .all = mail_.seen_by(number), .steward = steward_};
  seat.shard = std::make_unique<SimShard>(std::move(options), std::move(engine), links,
                                          seat.counters, tables_.back(), router);
}

WorldResult World::run() {
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    context_.shard = i;
    seats_[i]->shard->begin();
  }
  context_.shard = kNobody;
  context_.schedule(0, Happening::Kind::kChange);
  context_.schedule(0, Happening::Kind::kClientComes);
  while (step()) {
  }
  check_all();
  end_process();
  return sum_up();
}

void World::close_owned(int fd) {
  const Outside outside;
  const File file = kernel_.file(fd);
  if (file.kind == File::Kind::kClient && !kernel_.has_ended())
    ledger_.closes(kernel_.client_of(fd), true);
  kernel_.close(fd);
}

// --- the end ---

void World::begin_shutdown() {
  to_come_ = 0;
  backends_.stop_registering();
  shutdown_at_ns_ = context_.now_ns + context_.ms(Dial::kDrainMs);
  context_.note(What::kShutdown, 0, shutdown_at_ns_);
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kShutdown;
    message.deadline_ns = shutdown_at_ns_;
    mail_.post(i, std::move(message));
  }
}

void World::stop() {
  context_.note(What::kStop, 0);
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kStop;
    mail_.post(i, std::move(message));
  }
}

// All shards have ended: what is left must be nothing, but where a shard was made to end.
void World::end_process() {
  bool forced = false;
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    Seat& seat = *seats_[i];
    const std::uint32_t taken = seat.slots - seat.shard->free_for_taken_back();
    forced |= taken > 0;
    if (taken > 0 && context_.now_ns < shutdown_at_ns_)
      broken(1, fmt::format("shard {} ends with {} slots taken", i, taken));
    ledger_.balance(i, seat.counters);
  }
  kernel_.mux_has_ended();
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    context_.shard = i;
    seats_[i]->shard.reset();
  }
  context_.shard = kNobody;
  mail_.end();
  StewardMessage message;
  while (steward_.receive(message))
    message = {};
  backends_.empty_and_leave();
  clients_.for_each([this](std::uint32_t place, const Client& client) {
    if (client.received > 0) backends_.drop(place, client.generation);
  });
  const std::uint32_t left = kernel_.close_all();
  if (left > 0 && !forced) broken(1, fmt::format("{} descriptors are left open", left));
  if (clients_.in_use() > 0)
    broken(1, fmt::format("{} clients are held by nobody", clients_.in_use()));
  if (!forced) ledger_.balance_all();
  forced_ = forced;
}

WorldResult World::sum_up() const {
  WorldResult result;
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    const ShardCounters& counters = seats_[i]->counters;
    result.connections += counters.accepted.read();
    result.taken_back += counters.taken_back.read();
    result.passed += counters.passed.read();
    result.closed_without_backend += counters.closed_without_backend.read();
    for (const Counter& refused : counters.refused)
      result.refused += refused.read();
  }
  result.received = ledger_.received;
  result.forced = forced_ ? 1 : 0;
  result.turns = turns_;
  result.hash = context_.trace.hash();
  result.injected = context_.injected;
  return result;
}

}  // namespace tcpmux::sim
