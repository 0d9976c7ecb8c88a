// World, the part about its end.
#include <fmt/format.h>

#include "tests/sim/world.h"

namespace tcpmux::sim {
namespace {

// For the registry to see that everybody has left, and for the shards to give all lanes back.
constexpr std::int64_t kLeave_ns = 5 * kNanosPerSecond;

}  // namespace

// In some worlds all backends leave first: then the registry must have nothing left.
void World::begin_end() {
  if (upgrade_ != Upgrade::kNone) return;  // later: it is under way
  to_come_ = 0;
  if (context_.random.below(4) != 0) return begin_shutdown();
  leaving_ns_ = context_.now_ns;
  context_.note(What::kLeaveFirst, 0);
  backends_.all_leave();
}

void World::look_who_has_left() {
  if (upgrade_ != Upgrade::kNone) return;
  const std::uint32_t of = current().number();
  const std::uint32_t connections = kernel_.open_of(File::Kind::kRegistryConnection, of);
  if (connections == 0 && current().registry->lane_count() == 0 &&
      current().registry->backend_count() == 0)
    return begin_shutdown();
  const std::int64_t since_ns = std::max({leaving_ns_, upgraded_ns_, last_jump_ns_});
  if (context_.now_ns < since_ns + kLeave_ns) return;
  broken(1, fmt::format("all backends have left, and the registry has {} connections, {} lanes and "
                        "{} backends",
                        connections, current().registry->lane_count(),
                        current().registry->backend_count()));
}

void World::begin_shutdown() {
  backends_.mux_shuts_down();
  kernel_.enter(current().number());
  current().registry->begin_shutdown();
  shutdown_at_ns_ = context_.now_ns + context_.ms(Dial::kDrainMs);
  context_.note(What::kShutdown, 0, shutdown_at_ns_);
  current().post_all(ShardMessage::Kind::kShutdown, shutdown_at_ns_);
}

// A successor waits for its predecessor, which may still pass somebody on to it.
void World::shard_done(Process& process) {
  ++process.shards_done;
  if (process.shards_done < process.size() || process.is_stopped) return;
  if (&process == &current() && predecessor() != nullptr) return;
  process.is_stopped = true;
  process.registry->say_goodbye();
  context_.note(What::kStop, 0);
  process.post_all(ShardMessage::Kind::kStop);
}

// All shards of a process have ended: what is left must be nothing, but where one was made to end.
void World::end_shards(Process& process) {
  for (const auto& seat : process.seats) {
    const std::uint32_t taken = seat->slots - seat->shard->free_for_taken_back();
    if (taken > 0) result_.forced = 1;
    if (taken > 0 && (context_.now_ns < shutdown_at_ns_ || &process != &current()))
      broken(1, fmt::format("shard {} ends with {} slots taken", seat->number, taken));
    ledger_.balance(seat->number, seat->counters);
    const Account& account = ledger_.of(seat->number);
    result_.connections += account.accepted;
    result_.taken_back += account.taken_back;
    result_.passed += account.passed;
    result_.passed_on += account.passed_on;
    result_.closed_without_backend += account.closed_without_backend;
    for (const std::uint64_t refused : account.refused)
      result_.refused += refused;
    ledger_.close_account(seat->number);
    context_.shard = seat->number;
    seat->shard.reset();
    context_.shard = kNobody;
  }
  process.registry.reset();
  process.mail.end();
  StewardMessage message;
  while (process.steward.receive(message))
    message = {};
}

void World::end_predecessor() {
  end_shards(*predecessor());
  for (const auto& seat : predecessor()->seats)
    if (kernel_.owned_by(seat->number) > 0)
      broken(1, fmt::format("shard {} has ended, and leaves {} descriptors", seat->number,
                            kernel_.owned_by(seat->number)));
  const std::uint32_t left = kernel_.open_in(predecessor()->number());
  if (left > 0) broken(1, fmt::format("a process has ended, and leaves {} descriptors", left));
  processes_[1 - current_].reset();
  if (current().shards_done == current().size()) {
    --current().shards_done;
    shard_done(current());
  }
}

void World::end_all() {
  kernel_.mux_has_ended();
  end_shards(current());
  backends_.empty_and_leave();
  clients_.for_each([this](std::uint32_t place, const Client& client) {
    if (client.received > 0) backends_.drop(place, client.generation);
  });
  const bool forced = result_.forced > 0;
  const std::uint32_t left = kernel_.close_all();
  if (left > 0 && !forced) broken(1, fmt::format("{} descriptors are left open", left));
  if (clients_.in_use() > 0)
    broken(1, fmt::format("{} clients are held by nobody", clients_.in_use()));
  if (!forced) ledger_.balance_all();
}

}  // namespace tcpmux::sim
