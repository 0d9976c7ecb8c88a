// Backends, the part about receiving, and about what becomes of a backend. What it has to do with
// the registry is in backends_registry.cc.
#include "tests/sim/backends.h"

#include <fmt/format.h>

#include <algorithm>

namespace tcpmux::sim {
namespace {

constexpr std::int64_t kLeaves_ns = 80 * kNanosPerMilli;

}  // namespace

void Backends::soon(std::uint32_t place) {
  SimProcess& process = processes_[place];
  if (process.id == 0 || process.stalled || std::exchange(process.receives_soon, true)) return;
  context_.schedule(context_.random.between(0, 2 * context_.dials[Dial::kBackendUs] * kMicro_ns),
                    Happening::Kind::kBackendReceives, place, process.generation);
}

void Backends::lane_has_something(std::uint32_t lane) {
  const std::uint32_t place = kernel_.lane(lane).backend_place;
  if (place < processes_.size()) soon(place);
}

// A backend that was stalled may wake up just here.
void Backends::may_receive_now(std::uint32_t lane) {
  const std::uint32_t place = kernel_.lane(lane).backend_place;
  if (place >= processes_.size()) return;
  SimProcess& process = processes_[place];
  if (std::exchange(process.stalled, false)) {
    context_.note(What::kWakes, process.id);
    look_who_is_able();
  }
  receive_one(place, lane);
  soon(place);
}

void Backends::receive_from(std::uint32_t place, std::uint32_t generation) {
  SimProcess& process = processes_[place];
  if (process.id == 0 || process.generation != generation) return;
  process.receives_soon = false;
  if (process.stalled || process.lanes.empty()) return;
  misbehave(place);
  if (process.id == 0 || process.stalled || process.lanes.empty()) return;
  const auto count = static_cast<std::uint32_t>(process.lanes.size());
  const std::uint32_t first = context_.random.below(count);
  for (std::uint32_t i = 0; i < count; ++i)
    if (receive_one(place, process.lanes[(first + i) % count])) break;
  for (const std::uint32_t lane : process.lanes)
    if (kernel_.lane(lane).messages > 0) soon(place);
}

bool Backends::receive_one(std::uint32_t place, std::uint32_t number) {
  SimLane& lane = kernel_.lane(number);
  if (lane.messages == 0) return false;
  take(processes_[place], lane, lane.front());
  lane.pop();
  return true;
}

void Backends::take(const SimProcess& process, const SimLane& lane, const LaneMessage& message) {
  handoff::HandoffDecoder decoder(message.payload);
  for (std::uint32_t i = 0; i < message.count; ++i) {
    const std::uint32_t place = message.clients[i];
    Client& client = clients_[place];
    --client.in_lanes;
    ++client.received;
    client.received_by = process.id;
    ++ledger_.received;
    context_.note(What::kBackendReceives, client.serial, static_cast<std::int64_t>(process.id));
    if (client.received != 1 || client.in_lanes != 0)
      broken(2, fmt::format("client {} is received {} times, and waits in {} lanes more",
                            client.serial, client.received, client.in_lanes));
    if (client.consumed != client.line_bytes)
      broken(3, fmt::format("client {}: the backend reads from byte {}, and the line has {}",
                            client.serial, client.consumed, client.line_bytes));
    if ((process.services >> client.service & 1) == 0)
      broken(2, fmt::format("client {} came to a backend of another service", client.serial));
    check_plus(client);
    client.was_raw |= lane.raw;
    if (!lane.raw) {
      const Result<handoff::Facts> facts = decoder.next();
      if (!facts) broken(7, fmt::format("lane {}: {}", lane.serial, facts.error().message));
      check_facts(client, *facts);
    }
    if (context_.fault(Dial::kHold)) {
      context_.schedule(context_.random.skewed(30 * kNanosPerMilli), Happening::Kind::kBackendDrops,
                        place, client.generation);
    } else {
      drop(place, client.generation);
    }
  }
}

// '+' is what the client hears first, and all of it.
void Backends::check_plus(const Client& client) const {
  for (std::size_t i = tables_->size(); i > 0; --i)
    if ((*tables_)[i - 1]->accept_reply(client.service) == client.told) return;
  broken(3, fmt::format("client {} is received, and was told '{}'", client.serial, client.told));
}

void Backends::check_facts(Client& client, const handoff::Facts& facts) const {
  if (facts.service != (*tables_->back())[client.service].name)
    broken(2, fmt::format("client {} is said to want '{}'", client.serial, facts.service));
  const bool unknown = facts.source.address.family == IpAddress::Family::kNone;
  if (unknown ? !client.reset
              : facts.source != client.source || facts.destination != client.destination)
    broken(2, fmt::format("client {} is said to come from {}", client.serial,
                          to_string(facts.source)));
  std::uint64_t id = 0;
  for (std::size_t i = 8; i < 16; ++i)
    id = (id << 8) | facts.id[i];
  if (!client.was_raw && client.unique_id != 0 && client.unique_id != id + 1)
    broken(2, fmt::format("client {} has two ids", client.serial));
  client.unique_id = id + 1;
}

void Backends::drop(std::uint32_t place, std::uint32_t generation) {
  if (!clients_.is_current(place, generation)) return;
  Client& client = clients_[place];
  context_.note(What::kBackendDrops, client.serial, static_cast<std::int64_t>(client.received_by));
  clients_.let_go(place);
}

// --- what becomes of it ---

void Backends::misbehave(std::uint32_t place) {
  SimProcess& process = processes_[place];
  if (context_.fault(Dial::kDie)) return die(place);
  if (context_.fault(Dial::kStall)) return stall(process, place);
  if (!process.welcomed || process.leaving || process.draining || closed_) return;
  if (context_.fault(Dial::kRubbish)) {
    say_rubbish(process);
    leave_soon(process, kLeaves_ns);
  } else if (context_.fault(Dial::kDrain)) {
    process.draining = true;
    context_.note(What::kDrainsBackend, process.id);
    say(process, handoff::encode_plain(handoff::MessageType::kDrain), false);
    leave_soon(process, kLeaves_ns);
  } else if (context_.fault(Dial::kShutsLane)) {
    const auto count = static_cast<std::uint32_t>(process.lanes.size());
    SimLane& lane = kernel_.lane(process.lanes[context_.random.below(count)]);
    lane.is_shut = process.shut_a_lane = true;
    context_.note(What::kLaneBroken, lane.serial);
    look_who_is_able();
  }
}

// Whoever goes on receiving until then is of no more use.
void Backends::leave_soon(SimProcess& process, std::int64_t within_ns) {
  process.leaving = true;
  look_who_is_able();
  context_.schedule(context_.random.skewed(within_ns), Happening::Kind::kBackendWakes,
                    place_of(process), process.generation);
}

void Backends::stall(SimProcess& process, std::uint32_t place) {
  process.stalled = true;
  context_.note(What::kStalls, process.id);
  look_who_is_able();
  context_.schedule(context_.random.skewed(8 * context_.ms(Dial::kStallMs)),
                    Happening::Kind::kBackendWakes, place, process.generation);
}

// From a stall; or it leaves, with a word or without.
void Backends::wake(std::uint32_t place, std::uint32_t generation) {
  SimProcess& process = processes_[place];
  if (process.id == 0 || process.generation != generation) return;
  if (process.leaving) {
    if (context_.random.below(2) == 0)
      say(process, handoff::encode_plain(handoff::MessageType::kGoodbye, "leaving"), false);
    return die(place);
  }
  if (!std::exchange(process.stalled, false)) return;
  context_.note(What::kWakes, process.id);
  look_who_is_able();
  soon(place);
}

void Backends::die(std::uint32_t place) {
  SimProcess& process = processes_[place];
  context_.note(What::kDies, process.id);
  const std::vector<std::uint32_t> lanes = std::exchange(process.lanes, {});
  const std::uint32_t connection = process.connection;
  clear(process);
  for (const std::uint32_t lane : lanes) {
    kernel_.lane(lane).backend_place = UINT32_MAX;
    kernel_.leave_lane(lane);
  }
  if (connection != kNoConnection) registry_.leave(connection);
  look_who_is_able();
}

void Backends::clear(SimProcess& process) {
  const std::uint32_t generation = process.generation + 1;
  process = SimProcess{};
  process.generation = generation;
}

void Backends::empty_and_leave() {
  mux_has_ended_ = true;
  for (std::uint32_t place = 0; place < processes_.size(); ++place) {
    if (processes_[place].id == 0) continue;
    if (!processes_[place].deaf) hear(place, processes_[place].generation);
    for (const std::uint32_t lane : processes_[place].lanes)
      while (receive_one(place, lane)) {
      }
    die(place);
  }
}

}  // namespace tcpmux::sim
