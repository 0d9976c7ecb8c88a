// World, the part about stewards: core/server/steward.cc is what their mailbox's part is modelled
// on; the registry, and what it hears, are production's own.
#include <fmt/format.h>

#include "tests/sim/world.h"

namespace tcpmux::sim {
namespace {

constexpr std::int64_t kPause_ns = 30 * kNanosPerMilli;
constexpr std::uint32_t kIdleTurnsMax = 64;

}  // namespace

// Its mailbox, and its loop where that has something to do.
void World::steward_turn(Process& process) {
  if (context_.now_ns < process.steward_busy_until_ns) return call_steward(process);
  // Whoever acts on what a shard says has to find what the shard sent before.
  if (!process.mail.deliver_all_of_shards()) return;
  kernel_.enter(process.number());
  StewardMessage message;
  bool heard = false;
  while (process.steward.receive(message)) {
    heard = true;
    receive(process, message);
    kernel_.enter(process.number());
  }
  if (heard || process.loop_due_ns <= context_.now_ns || process.loop_has_heard != registry_.news())
    run_loop(process);
  backends_.look_at_routes();
  if (context_.fault(Dial::kSlowSteward))
    process.steward_busy_until_ns = context_.now_ns + context_.random.skewed(kPause_ns);
}

void World::run_loop(Process& process) {
  const std::uint64_t before = process.loop_has_heard = registry_.news();
  process.loop->run();
  process.mail.collect_from_registry();
  check_registry(process);
  process.loop_due_ns = loop_due_ns_;
  const bool idle = loop_due_ns_ <= context_.now_ns && registry_.news() == before;
  process.loop_idle_turns = idle ? process.loop_idle_turns + 1 : 0;
  if (process.loop_idle_turns > kIdleTurnsMax)
    broken(6, fmt::format("the steward spins: {} turns for nothing", process.loop_idle_turns));
  call_steward(process);
}

// It is to look again when its loop is due, or has something to hear.
void World::call_steward(Process& process) {
  std::int64_t at_ns = process.loop_has_heard != registry_.news() ? 0 : process.loop_due_ns;
  at_ns = std::max({at_ns, process.steward_busy_until_ns, context_.now_ns + kMicro_ns});
  if (at_ns >= process.steward_called_ns || at_ns >= kNever_ns) return;
  process.steward_called_ns = at_ns;
  context_.schedule(at_ns - context_.now_ns, Happening::Kind::kSteward, process.number());
}

// What the registry counts is what the kernel has.
void World::check_registry(const Process& process) const {
  const std::uint32_t of = process.number();
  const std::size_t lanes = kernel_.open_of(File::Kind::kLaneOurs, of);
  const std::size_t connections = kernel_.open_of(File::Kind::kRegistryConnection, of);
  if (process.registry->lane_count() != lanes ||
      kernel_.open_of(File::Kind::kLaneCopy, of) != lanes)
    broken(1, fmt::format("the registry counts {} lanes, and {} are open",
                          process.registry->lane_count(), lanes));
  if (process.registry->backend_count() > connections)
    broken(1, fmt::format("the registry counts {} backends, and {} are connected",
                          process.registry->backend_count(), connections));
}

void World::take_lane(Process& process, std::unique_ptr<SinkMessage> message) {
  const auto& lane = static_cast<const handoff::Lane&>(*message);
  const std::uint32_t place = kernel_.file(lane.setup.ours.get()).index;
  context_.note(What::kLaneReturns, kernel_.lane(place).serial);
  process.registry->receive(std::move(message));
}

void World::receive(Process& process, StewardMessage& message) {
  using Kind = StewardMessage::Kind;
  switch (message.kind) {
    case Kind::kSink:
      return take_lane(process, std::move(message.sink));
    case Kind::kSinkNotice:
      return process.registry->receive_notice(message);
    case Kind::kShardDone:
      context_.note(What::kDone, message.number);
      return shard_done(process);
    case Kind::kShardPaused:
      return shard_paused(process);
    case Kind::kPassedOn:
      return pass_on(std::move(message.connection));
    case Kind::kNone:
    case Kind::kRefusal:
    case Kind::kAcceptFailed:
      return;
  }
}

}  // namespace tcpmux::sim
