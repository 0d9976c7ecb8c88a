// Backends, the part about what the registry says to shards (handoff/registry.cc is what it is
// modelled on).
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "handoff/lane_state.h"
#include "tests/sim/backends.h"

namespace tcpmux::sim {

using handoff::BackendCommand;
using handoff::Lane;
using handoff::LaneKind;
using handoff::RouterMessage;
using handoff::RoutesCommand;

namespace {

ShardMessage of_sink(std::unique_ptr<SinkMessage> sink) {
  ShardMessage message;
  message.kind = ShardMessage::Kind::kSink;
  message.sink = std::move(sink);
  return message;
}

}  // namespace

Backends::Backends(Parts parts, std::uint32_t lanes_max)
    : context_(parts.context),
      kernel_(parts.kernel),
      clients_(parts.clients),
      ledger_(parts.ledger),
      shards_(static_cast<std::uint32_t>(parts.context.dials[Dial::kShards])),
      lanes_on_shard_(shards_),
      lanes_max_(lanes_max) {
  kernel_.set_reader(this);
}

void Backends::serve(Process& process) {
  mail_ = &process.mail;
  first_ = process.first;
}

void Backends::register_missing() {
  if (closed_ || paused_) return;
  const auto there = std::count_if(processes_.begin(), processes_.end(),
                                   [](const auto& one) { return one.registered && !one.draining; });
  if (there < context_.dials[Dial::kBackends]) register_one();
}

void Backends::register_one() {
  const bool one_lane = context_.fault(Dial::kOneLane);
  const std::uint32_t first = context_.random.below(shards_);
  const std::uint32_t count = one_lane ? 1 : shards_;
  if (lanes_ + count > lanes_max_ || !kernel_.has_room(2 * count)) return;
  for (std::uint32_t i = 0; i < count; ++i)
    if (lanes_on_shard_[(first + i) % shards_] >= kLanesPerShardMax) return;
  std::uint32_t place = 0;
  while (place < processes_.size() && processes_[place].id != 0)
    ++place;
  if (place == processes_.size()) processes_.emplace_back();
  SimProcess& process = processes_[place];
  process.id = next_id_++;
  process.registered = true;
  const bool raw = context_.fault(Dial::kRaw);
  const auto services = static_cast<std::uint32_t>(context_.dials[Dial::kServices]);
  process.services = 1U << context_.random.below(services);
  if (!raw) process.services |= 1U << context_.random.below(services);
  for (std::uint32_t i = 0; i < count; ++i)
    make_lane(process, place, (first + i) % shards_, raw);
  context_.note(What::kRegisters, process.id, count);
  send_routes(process.services);
  process.version = routes_version_;
}

void Backends::make_lane(SimProcess& process, std::uint32_t place, std::uint32_t shard, bool raw) {
  Random& random = context_.random;
  const auto window = static_cast<std::uint32_t>(random.between(1, context_.dials[Dial::kWindow]));
  const auto batch = static_cast<std::uint16_t>(random.between(1, context_.dials[Dial::kBatch]));
  const std::uint32_t number = kernel_.make_lane(window);
  SimLane& lane = kernel_.lane(number);
  lane.backend = process.id;
  lane.backend_place = place;
  lane.shard = first_ + shard;
  lane.services = process.services;
  lane.raw = raw;
  Lane::Setup setup;
  setup.ours = OwnFd(kernel_.open({File::Kind::kLaneOurs, kNobody, number}));
  setup.copy_of_theirs = OwnFd(kernel_.open({File::Kind::kLaneCopy, kNobody, number}));
  if (!setup.copy_of_theirs.valid()) broken(1, "the budget has no descriptors for a lane");
  setup.backend = process.id;
  for (ServiceId service = 0; service < 32; ++service)
    if ((process.services >> service & 1) != 0) setup.services.push_back(service);
  setup.kind = raw ? LaneKind::kRawSeqpacket : LaneKind::kMessages;
  setup.window = window;
  setup.batch = raw ? std::uint16_t{1} : batch;
  auto made = std::make_unique<Lane>(std::move(setup));
  made->shard = shard;
  process.lanes.push_back(number);
  process.shards |= std::uint64_t{1} << shard;
  ++lanes_on_shard_[shard];
  ++lanes_;
  mail_->post(shard, of_sink(std::move(made)));
}

void Backends::send_routes(std::uint32_t services) {
  ++routes_version_;
  for (std::uint32_t shard = 0; shard < shards_; ++shard) {
    auto command = std::make_unique<RoutesCommand>();
    command->version = routes_version_;
    for (ServiceId service = 0; service < 32; ++service) {
      if ((services >> service & 1) == 0) continue;
      RoutesCommand::Entry entry{.service = service};
      for (const SimProcess& process : processes_) {
        const bool serves = (process.services >> service & 1) != 0;
        if (!serves || !process.registered || process.draining) continue;
        entry.shards |= process.shards;
        ++entry.backends;
      }
      command->entries.push_back(entry);
    }
    mail_->post(shard, of_sink(std::move(command)));
  }
  look_who_is_able();
}

void Backends::command(RouterMessage::Kind kind, std::uint64_t backend) {
  for (std::uint32_t shard = 0; shard < shards_; ++shard)
    mail_->post(shard, of_sink(std::make_unique<BackendCommand>(kind, backend)));
}

// First the others, so that what is taken back has somewhere to go.
void Backends::end_registration(SimProcess& process) {
  if (paused_) {
    process.left = true;
    return;
  }
  context_.note(What::kLoses, process.id);
  process.registered = process.left = false;
  send_routes(process.services);
  command(RouterMessage::Kind::kBackendGone, process.id);
}

void Backends::lane_returns(std::unique_ptr<SinkMessage> message) {
  if (paused_) {
    away_.emplace_back(static_cast<Lane*>(message.release()));
    return;
  }
  const auto& lane = static_cast<const Lane&>(*message);
  context_.note(What::kLaneReturns, lane.setup.backend, lane.shard);
  --lanes_on_shard_[lane.shard];
  --lanes_;
}

void Backends::lane_is_broken(std::uint64_t backend) {
  for (SimProcess& process : processes_) {
    if (process.id != backend || !process.registered) continue;
    end_registration(process);
    context_.schedule(context_.random.skewed(80 * kNanosPerMilli), Happening::Kind::kBackendWakes,
                      static_cast<std::uint32_t>(&process - processes_.data()), process.generation);
  }
}

void Backends::hand_over(std::unique_ptr<Lane> lane) {
  const std::uint32_t shard = lane->shard;
  const std::uint64_t id = lane->setup.backend;
  mail_->post(shard, of_sink(std::move(lane)));
  const auto found = std::find_if(processes_.begin(), processes_.end(),
                                  [id](const auto& one) { return one.id == id && one.registered; });
  if (found != processes_.end() && !found->draining) return;
  const auto kind = found == processes_.end() ? RouterMessage::Kind::kBackendGone
                                              : RouterMessage::Kind::kDrainBackend;
  mail_->post(shard, of_sink(std::make_unique<BackendCommand>(kind, id)));
}

void Backends::hear_who_has_left() {
  for (SimProcess& process : processes_) {
    if (process.id == 0 || !process.left) continue;
    end_registration(process);
    if (process.lanes.empty()) clear(process);
  }
}

void Backends::resume() {
  paused_ = false;
  for (std::unique_ptr<Lane>& lane : std::exchange(away_, {}))
    hand_over(std::move(lane));
  hear_who_has_left();
  look_who_is_able();
}

// Lanes go over as production writes them down for its successor.
void Backends::move_to(Process& process) {
  serve(process);
  paused_ = false;
  routes_known_ = 0;
  for (std::unique_ptr<Lane>& lane : std::exchange(away_, {})) {
    const nlohmann::json state = nlohmann::json::parse(handoff::lane_state(*lane).dump());
    const std::uint32_t place = kernel_.file(lane->setup.ours.get()).index;
    kernel_.lane(place).shard = first_ + lane->shard;
    Result<std::unique_ptr<Lane>> taken =
        handoff::lane_from(state, lane->setup.services, std::move(lane->setup.ours),
                           std::move(lane->setup.copy_of_theirs));
    if (!taken) broken(7, taken.error().message);
    hand_over(*std::move(taken));
  }
  std::uint32_t all = 0;
  for (const SimProcess& one : processes_)
    if (one.registered) all |= one.services;
  send_routes(all);
  for (SimProcess& one : processes_)
    if (one.registered) one.version = routes_version_;
  hear_who_has_left();
  look_who_is_able();
}

void Backends::routes_are_known(std::uint64_t version) {
  if (std::exchange(routes_known_, version) != version) look_who_is_able();
}

// For the ledger: since when is there somebody for each service?
void Backends::look_who_is_able() {
  std::uint32_t registered = 0;
  std::uint32_t able = 0;
  for (const SimProcess& process : processes_) {
    const bool known = process.registered && !process.left && !process.draining &&
                       !process.shut_a_lane && process.version != 0 &&
                       process.version <= routes_known_;
    if (known) registered |= process.services;
    if (known && !process.stalled) able |= process.services;
  }
  const auto update = [this](std::int64_t& since_ns, bool is) {
    since_ns = !is ? kNever_ns : since_ns == kNever_ns ? context_.now_ns : since_ns;
  };
  for (ServiceId service = 0; service < ledger_.services.size(); ++service) {
    Ledger::Service& entry = ledger_.services[service];
    update(entry.registered_since_ns, (registered >> service & 1) != 0);
    update(entry.able_since_ns, (able >> service & 1) != 0);
  }
}

}  // namespace tcpmux::sim
