// World, the part about its steps. What stewards do is in world_steward.cc, what changes while it
// runs in world_changes.cc, and its end in world_end.cc.
#include "tests/sim/world.h"

#include <fmt/format.h>

#include <algorithm>

namespace tcpmux::sim {
namespace {

constexpr std::uint32_t kClientsAtOnceMax = 512;
// Between two looks at all clients.
constexpr std::uint64_t kStepsBetweenLooks = 256;
constexpr std::uint32_t kIdleTurnsMax = 64;
constexpr std::int64_t kTurnCost_ns = 12 * kMicro_ns;
constexpr std::int64_t kPause_ns = 60 * kNanosPerMilli;
constexpr std::int64_t kChange_ns = 4 * kNanosPerMilli;
constexpr std::int64_t kRealJump_ns = 5 * kNanosPerSecond;
// Of the registry's process: its socket, its lock and what tells of its path; and for a moment the
// socket made again with another watch, and a connection that is refused.
constexpr std::uint32_t kRegistryDescriptors = 3 + 3;
// What the deadlines of production leave open: turns, mail, pauses, a user's limit.
constexpr std::int64_t kSlack_ns = 2 * kNanosPerSecond;
constexpr std::int64_t kLinger_ns = 2 * kNanosPerSecond;

}  // namespace

World* world = nullptr;

World::World(Context& context)
    : context_(context),
      clients_(context, kClientsAtOnceMax),
      kernel_(context, clients_),
      registry_(context, kernel_),
      ledger_(context, kernel_),
      backends_({context, kernel_, clients_, ledger_, registry_}),
      to_come_(static_cast<std::uint64_t>(context.dials[Dial::kConnections])) {
  world = this;
  kernel_.set_descriptors_max(descriptors_max());
  make_table();
  backends_.set_tables(&tables_);
  processes_[0] =
      std::make_unique<Process>(parts(), 0, tables_.back(), registry_options_of(context_), nullptr);
  backends_.serve(*processes_[0]);
}

World::~World() {
  world = nullptr;
}

// As core/server/limits.cc divides them: slots, backends, and what a process needs itself.
std::uint32_t World::descriptors_max() const {
  const Dials& dials = context_.dials;
  const std::int64_t of_shard =
      dials[Dial::kSlots] + dials[Dial::kBusySlots] + dials[Dial::kTakenBackSlots] + 2;
  return static_cast<std::uint32_t>(of_shard * dials[Dial::kShards] +
                                    registry_options_of(context_).descriptors_max +
                                    kRegistryDescriptors + dials[Dial::kSpareDescriptors]);
}

WorldResult World::run() {
  is_running_ = true;
  current().begin(context_, kernel_);
  call_steward(current());
  context_.schedule(0, Happening::Kind::kChange);
  context_.schedule(0, Happening::Kind::kClientComes);
  while (step()) {
  }
  check_all();
  end_all();
  result_.received = ledger_.received;
  result_.hash = context_.trace.hash();
  result_.injected = context_.injected;
  return result_;
}

bool World::step() {
  Process* process = nullptr;
  Seat* next = nullptr;
  std::int64_t next_ns = kNever_ns;
  for (const auto& one : processes_) {
    if (one == nullptr) continue;
    for (const auto& seat : one->seats) {
      if (seat->ended) continue;
      const std::int64_t at_ns = std::max(seat->busy_until_ns, seat->engine->next_turn_ns());
      if (next != nullptr && at_ns >= next_ns) continue;
      process = one.get();
      next = seat.get();
      next_ns = at_ns;
    }
  }
  if (next == nullptr) return false;
  if (context_.next_ns() < next_ns) {
    const Happening happening = context_.take_next();
    context_.now_ns = std::max(context_.now_ns, happening.at_ns);
    happen(happening);
  } else {
    context_.now_ns = std::max(context_.now_ns, next_ns);
    turn(*process, *next);
  }
  wake_up();
  if (++steps_ % kStepsBetweenLooks == 0) check_all();
  return true;
}

void World::wake_up() {
  for (const auto& process : processes_) {
    if (process == nullptr) continue;
    for (std::uint32_t woken = process->mail.take_woken(), i = 0; woken != 0; woken >>= 1, ++i)
      if ((woken & 1) != 0) process->seats[i]->engine->wake();
  }
}

void World::turn(Process& process, Seat& seat) {
  context_.shard = seat.number;
  kernel_.enter(process.number());
  const std::uint32_t local = seat.number - process.first;
  // What lies in its mailbox becomes its own in this turn.
  if (seat.engine->is_woken()) {
    for (const int fd : process.mail.connections_in(local)) {
      kernel_.give_to(fd, seat.number);
      context_.note(What::kAdopts, kernel_.client_of(fd).serial);
    }
    process.mail.connections_in(local).clear();
  }
  ledger_.paused_ns = std::exchange(seat.paused_ns, 0);
  seat.engine->begin_turn();
  allocation_forbidden = true;
  seat.shard->turn();
  allocation_forbidden = false;
  ++result_.turns;
  context_.note(What::kTurn, seat.engine->reaped(),
                seat.engine->waited() ? seat.engine->deadline_ns() : 0);
  if (seat.counters.passed.read() != ledger_.of(seat.number).passed) process.mail.collect(local);
  check_turn(seat);
  context_.shard = kNobody;
  seat.ended = seat.shard->ended();
  seat.busy_until_ns = context_.now_ns + kMicro_ns + context_.random.skewed(kTurnCost_ns);
  if (context_.fault(Dial::kShardPause)) {
    const std::int64_t pause_ns = context_.random.skewed(kPause_ns);
    context_.note(What::kPause, seat.number, pause_ns);
    seat.busy_until_ns += pause_ns;
    seat.paused_ns = pause_ns;
  }
  steward_turn(process);
  if (&process == predecessor() && process.has_ended()) end_predecessor();
}

void World::check_turn(Seat& seat) {
  ledger_.compare(seat.number, seat.counters, seat.slots - seat.shard->free_for_taken_back());
  const SimBackend& engine = *seat.engine;
  const bool idle =
      engine.waited() && engine.deadline_ns() <= context_.now_ns && !engine.was_useful();
  seat.idle_turns = idle ? seat.idle_turns + 1 : 0;
  if (seat.idle_turns > kIdleTurnsMax)
    broken(6, fmt::format("shard {} spins: {} turns for nothing", seat.number, seat.idle_turns));
}

void World::happen(const Happening& happening) {
  using Kind = Happening::Kind;
  switch (happening.kind) {
    case Kind::kClientComes:
      return client_comes();
    case Kind::kClientSends:
      if (clients_.is_current(happening.a, happening.b)) clients_.send_next(happening.a);
      return;
    case Kind::kClientReads:
      if (clients_.is_current(happening.a, happening.b)) clients_.read_all(happening.a);
      return;
    case Kind::kClientUnblocks:
      if (clients_.is_current(happening.a, happening.b)) clients_.unblock(happening.a);
      return;
    case Kind::kBackendReceives:
      return backends_.receive_from(happening.a, happening.b);
    case Kind::kBackendWakes:
      return backends_.wake(happening.a, happening.b);
    case Kind::kBackendDrops:
      return backends_.drop(happening.a, happening.b);
    case Kind::kBackendSpeaks:
      return backends_.speak(happening.a, happening.b);
    case Kind::kBackendHears:
      return backends_.hear(happening.a, happening.b);
    case Kind::kSteward:
      if (const auto& process = processes_[happening.a]; process != nullptr) {
        process->steward_called_ns = kNever_ns;
        steward_turn(*process);
      }
      return;
    case Kind::kMail:
      // The process may have ended.
      if (const auto& process = processes_[happening.a * 2 / kShardsMax]; process != nullptr)
        process->mail.deliver(happening.b);
      return;
    case Kind::kChange:
      return change();
  }
}

void World::client_comes() {
  if (to_come_ == 0) return;
  context_.schedule(context_.random.between(0, 2 * context_.dials[Dial::kGapUs] * kMicro_ns),
                    Happening::Kind::kClientComes);
  const std::uint32_t listener = context_.random.below(current().size());
  if (!kernel_.listener(listener).is_open()) return;
  const std::uint32_t client =
      clients_.come(static_cast<std::uint32_t>(context_.dials[Dial::kServices]));
  if (client == kNoClient) return;
  --to_come_;
  context_.note(What::kConnects, clients_[client].serial, listener);
  kernel_.connect(listener, client);
}

void World::change() {
  context_.schedule(context_.random.skewed(kChange_ns), Happening::Kind::kChange);
  backends_.register_missing();
  if (context_.fault(Dial::kPathRemoved)) {
    context_.note(What::kPathRemoved, 0);
    registry_.remove_path();
  }
  for (const auto& process : processes_)
    if (process != nullptr) steward_turn(*process);
  if (upgrade_ == Upgrade::kSettling) settle();
  const bool serves = upgrade_ == Upgrade::kNone && shutdown_at_ns_ == kNever_ns;
  if (serves && context_.fault(Dial::kTableSwap)) change_configuration();
  if (context_.fault(Dial::kClockJump)) jump();
  if (context_.fault(Dial::kRealClockJump)) {
    const std::int64_t by_ns = context_.random.between(-kRealJump_ns, kRealJump_ns);
    context_.note(What::kRealJump, 0, by_ns);
    context_.real_ahead_ns += by_ns;
  }
  if (shutdown_at_ns_ != kNever_ns) return;
  if (upgrade_ == Upgrade::kNone && predecessor() == nullptr && context_.fault(Dial::kUpgrade))
    begin_upgrade();
  if (leaving_ns_ != kNever_ns) return look_who_has_left();
  const bool over = to_come_ == 0 && context_.random.below(16) == 0;
  if (over || context_.fault(Dial::kEarlyShutdown)) begin_end();
}

void World::check_all() {
  clients_.for_each([this](std::uint32_t, const Client& client) { check_client(client); });
  backends_.check_waiting(std::max(last_jump_ns_, upgraded_ns_));
  if (context_.now_ns < last_jump_ns_ + kSlack_ns) return;
  const std::int64_t since_ns = std::min(
      shutdown_at_ns_, predecessor() == nullptr ? kNever_ns : predecessor()->leaving_since_ns);
  const std::int64_t most_ns = 2 * context_.ms(Dial::kHandshakeMs) + 3 * kLinger_ns + 2 * kSlack_ns;
  if (since_ns != kNever_ns && context_.now_ns > since_ns + most_ns)
    broken(6, "a shard does not end: " + who_does_not_end());
}

std::string World::who_does_not_end() const {
  std::string text;
  for (const auto& process : processes_) {
    if (process == nullptr) continue;
    for (const auto& seat : process->seats)
      text += fmt::format(" {}: {} slots, {} sockets{}", seat->number,
                          seat->slots - seat->shard->free_for_taken_back(),
                          kernel_.owned_by(seat->number), seat->ended ? ", ended;" : ";");
  }
  return text;
}

// Nobody waits for ever: whatever a client waits for has a deadline, and a new configuration makes
// it twice as long at most.
void World::check_client(const Client& client) const {
  if (client.accepted_ns == 0 || client.received > 0) return;
  if (context_.now_ns < last_jump_ns_ + kSlack_ns) return;
  const std::int64_t handshake_ns = 2 * context_.ms(Dial::kHandshakeMs);
  const std::int64_t search_ns = 2 * context_.ms(Dial::kHandoffMs) + context_.ms(Dial::kStallMs);
  std::int64_t most_ns = handshake_ns + 4 * context_.ms(Dial::kRoomWaitMs);
  if (client.answer == Told::kMinus || client.answer == Told::kNames)
    most_ns = handshake_ns + 2 * kLinger_ns;
  if (client.answer == Told::kPlus) most_ns = 4 * search_ns;
  const std::int64_t for_ns = context_.now_ns - client.decided_ns;
  if (for_ns <= most_ns + kSlack_ns) return;
  broken(2, fmt::format("client {} has waited for {} ms, and nothing happens: told {}, in {} lanes",
                        client.serial, for_ns / kNanosPerMilli, static_cast<int>(client.answer),
                        client.in_lanes));
}

void World::close_owned(int fd) {
  const Outside outside;
  const File file = kernel_.file(fd);
  if (file.kind == File::Kind::kClient && !kernel_.has_ended()) {
    if (context_.shard == kNobody)
      broken(2, fmt::format("client {} is lost in a mailbox", clients_[file.index].serial));
    ledger_.closes(kernel_.client_of(fd), true);
  }
  kernel_.close(fd);
}

}  // namespace tcpmux::sim
