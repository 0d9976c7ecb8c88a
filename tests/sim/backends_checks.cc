// Backends, the part about what the registry may do to them, and who counts as registered.
#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/backends.h"

namespace tcpmux::sim {

using handoff::MessageType;
using handoff::RefuseCode;

namespace {

// The registry's answer, where nothing is wrong with its shards' pace: turns, mail, full mailboxes.
constexpr std::int64_t kAnswer_ns = 3 * kNanosPerSecond;
constexpr std::uint64_t kNotYetSaid = UINT64_MAX;

}  // namespace

// --- what the registry may do ---

void Backends::registry_sends(std::uint32_t connection, std::span<const std::byte> payload) {
  const auto header = handoff::decode_header(payload);
  if (!header || static_cast<MessageType>(header->type) != MessageType::kRefuse) return;
  const SimProcess* const process = who_has(connection);
  if (process == nullptr) return;
  if (may_be_refused(*process, static_cast<RefuseCode>(header->count))) return;
  broken(7, fmt::format("backend {} is refused with code {}, without cause", process->id,
                        header->count));
}

bool Backends::may_be_refused(const SimProcess& process, RefuseCode code) const {
  const RegistryConnection& connection = registry_[process.connection];
  const std::string& name = process.asks.names.front();
  switch (code) {
    case RefuseCode::kMalformed:
      return process.rubbish ||
             context_.now_ns - connection.accepted_ns > limits_.register_within_ns;
    case RefuseCode::kVersion:
      return process.other_version;
    case RefuseCode::kNotAllowed:
      return process.is_stranger;
    case RefuseCode::kUnknownService:
      return name.starts_with("nobody");
    case RefuseCode::kBadName:
      return process.services == 0 && !name.starts_with("nobody");
    case RefuseCode::kNoRoom:
      return name.starts_with("nobody") || registry_.no_room_is_excused() ||
             has_no_room_for(process);
    case RefuseCode::kShuttingDown:
      return shutting_down_;
  }
  return false;
}

// By what the kernel knows, and not by the registry's own counts.
bool Backends::has_no_room_for(const SimProcess& process) const {
  const std::uint32_t of = mux_->number();
  const std::uint32_t wanted = process.asks.lanes == 0 ? shards_ : process.asks.lanes;
  const std::uint32_t used = kernel_.open_of(File::Kind::kRegistryConnection, of) +
                             2 * kernel_.open_of(File::Kind::kLaneOurs, of);
  if (used + 2 * wanted > limits_.descriptors_max) return true;
  std::uint64_t windows = 0;
  std::uint32_t unassigned = 0;
  std::array<std::uint32_t, kShardsMax> on_shard{};
  for (std::uint32_t i = 0; i < kernel_.lanes(); ++i) {
    const SimLane& lane = kernel_.lane(i);
    if (lane.serial == 0 || lane.ours[of] == 0) continue;
    windows += lane.window;
    // What a successor has not sent its shards yet has the shard that it had.
    if (lane.shard < kShardsMax)
      ++on_shard[lane.shard % (kShardsMax / kProcessesMax)];
    else
      ++unassigned;
  }
  const std::uint32_t fullest = *std::max_element(on_shard.begin(), on_shard.end());
  const std::uint32_t on_one_shard = (wanted + shards_ - 1) / shards_;
  return windows + wanted > limits_.windows_max ||
         fullest + unassigned + on_one_shard > limits_.lanes_per_shard_max;
}

void Backends::check_waiting(std::int64_t since_ns) const {
  for (const SimProcess& process : processes_) {
    if (process.id == 0 || process.connection == kNoConnection) continue;
    const RegistryConnection& connection = registry_[process.connection];
    if (connection.references == 0 || connection.accepted_ns == kNever_ns) continue;
    std::int64_t due_ns = connection.asked_ns;
    if (due_ns == kNever_ns && !process.has_asked && !process.rubbish && !connection.excused)
      due_ns = connection.accepted_ns + limits_.register_within_ns;
    if (due_ns == kNever_ns) continue;
    const std::int64_t for_ns =
        context_.now_ns - std::max({due_ns, connection.accepted_ns, since_ns});
    if (for_ns > kAnswer_ns)
      broken(7, fmt::format("backend {} has waited for {} ms for the registry's answer", process.id,
                            for_ns / kNanosPerMilli));
  }
}

// --- who is registered ---

void Backends::serve(Process& process) {
  mux_ = &process;
  routes_awaited_ = kNotYetSaid;
  look_who_is_able();
}

void Backends::look_at_routes() {
  if (routes_awaited_ == 0) return;
  if (routes_awaited_ == kNotYetSaid) {
    if (!mux_->registry->at_rest() || !mux_->mail.steward_has_said_all()) return;
    routes_awaited_ = mux_->mail.routes_version();
  }
  if (mux_->routes_version() < routes_awaited_) return;
  routes_awaited_ = 0;
  look_who_is_able();
}

// From when it knows that it is welcome, to when it does something that may end that.
bool Backends::is_able(const SimProcess& process) const {
  return process.id != 0 && process.welcomed && !process.leaving && !process.draining &&
         !process.rubbish && !process.shut_a_lane && process.connection != kNoConnection &&
         registry_[process.connection].references > 0;
}

// For the ledger: since when is there somebody for each service?
void Backends::look_who_is_able() {
  std::uint32_t registered = 0;
  std::uint32_t able = 0;
  for (const SimProcess& process : processes_) {
    if (routes_awaited_ != 0 || !is_able(process)) continue;
    registered |= process.services;
    if (!process.stalled) able |= process.services;
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
