// World, the part about its steps. How it is made and how it ends is in world_life.cc.
#include "tests/sim/world.h"

#include <fmt/format.h>

#include <algorithm>

namespace tcpmux::sim {
namespace {

// Between two looks at all clients.
constexpr std::uint64_t kStepsBetweenLooks = 256;
constexpr std::uint32_t kIdleTurnsMax = 64;
constexpr std::int64_t kTurnCost_ns = 12 * kMicro_ns;
constexpr std::int64_t kPause_ns = 60 * kNanosPerMilli;
constexpr std::int64_t kChange_ns = 2 * kNanosPerMilli;
constexpr std::int64_t kJump_ns = 5 * kNanosPerSecond;
constexpr std::int64_t kStewardPause_ns = 30 * kNanosPerMilli;
// What the deadlines of production leave open: turns, mail, pauses, a user's limit.
constexpr std::int64_t kSlack_ns = 2 * kNanosPerSecond;
constexpr std::int64_t kLinger_ns = 2 * kNanosPerSecond;

}  // namespace

bool World::step() {
  std::uint32_t next = kNobody;
  std::int64_t next_ns = kNever_ns;
  bool all_ended = true;
  for (std::uint32_t i = 0; i < seats_.size(); ++i) {
    const Seat& seat = *seats_[i];
    if (seat.ended) continue;
    all_ended = false;
    const std::int64_t at_ns = std::max(seat.busy_until_ns, seat.engine->next_turn_ns());
    if (at_ns >= next_ns) continue;
    next = i;
    next_ns = at_ns;
  }
  if (all_ended) return false;
  if (context_.next_ns() < next_ns) {
    const Happening happening = context_.take_next();
    context_.now_ns = std::max(context_.now_ns, happening.at_ns);
    happen(happening);
  } else {
    context_.now_ns = std::max(context_.now_ns, next_ns);
    turn(next);
  }
  for (std::uint32_t woken = mail_.take_woken(), i = 0; woken != 0; woken >>= 1, ++i)
    if ((woken & 1) != 0) seats_[i]->engine->wake();
  if (++steps_ % kStepsBetweenLooks == 0) check_all();
  return true;
}

void World::turn(std::uint32_t number) {
  Seat& seat = *seats_[number];
  context_.shard = number;
  // What lies in its mailbox becomes its own in this turn.
  if (seat.engine->is_woken()) {
    for (const int fd : mail_.connections_in(number)) {
      kernel_.give_to(fd, number);
      context_.note(What::kAdopts, kernel_.client_of(fd).serial);
    }
    mail_.connections_in(number).clear();
  }
  seat.engine->begin_turn();
  allocation_forbidden = true;
  seat.shard->turn();
  allocation_forbidden = false;
  ++turns_;
  context_.note(What::kTurn, seat.engine->reaped(),
                seat.engine->slept() ? seat.engine->deadline_ns() : 0);
  if (seat.counters.passed.read() != ledger_.of(number).passed) mail_.collect(number);
  check_turn(number);
  context_.shard = kNobody;
  seat.ended = seat.shard->ended();
  seat.busy_until_ns = context_.now_ns + kMicro_ns + context_.random.skewed(kTurnCost_ns);
  if (context_.fault(Dial::kShardPause)) {
    const std::int64_t pause_ns = context_.random.skewed(kPause_ns);
    context_.note(What::kPause, number, pause_ns);
    seat.busy_until_ns += pause_ns;
  }
  read_steward_mail();
}

void World::check_turn(std::uint32_t number) {
  Seat& seat = *seats_[number];
  ledger_.compare(number, seat.counters, seat.slots - seat.shard->free_for_taken_back());
  const SimBackend& engine = *seat.engine;
  const bool idle =
      engine.slept() && engine.deadline_ns() <= context_.now_ns && !engine.was_useful();
  seat.idle_turns = idle ? seat.idle_turns + 1 : 0;
  if (seat.idle_turns > kIdleTurnsMax)
    broken(6, fmt::format("shard {} spins: {} turns for nothing", number, seat.idle_turns));
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
    case Kind::kMail:
      return mail_.deliver(happening.a);
    case Kind::kChange:
      return change();
  }
}

void World::client_comes() {
  if (to_come_ == 0) return;
  context_.schedule(context_.random.between(0, 2 * context_.dials[Dial::kGapUs] * kMicro_ns),
                    Happening::Kind::kClientComes);
  const std::uint32_t listener = context_.random.below(static_cast<std::uint32_t>(seats_.size()));
  if (!kernel_.listener(listener).open) return;
  const std::uint32_t client =
      clients_.come(static_cast<std::uint32_t>(context_.dials[Dial::kServices]));
  if (client == kNoClient) return;
  --to_come_;
  context_.note(What::kConnects, clients_[client].serial, listener);
  kernel_.connect(listener, client);
}

void World::change() {
  context_.schedule(context_.random.skewed(2 * kChange_ns), Happening::Kind::kChange);
  backends_.register_missing();
  read_steward_mail();
  if (context_.fault(Dial::kTableSwap)) swap_table();
  if (context_.fault(Dial::kClockJump)) {
    const std::int64_t by_ns = context_.random.skewed(kJump_ns);
    context_.note(What::kJump, 0, by_ns);
    context_.now_ns += by_ns;
    last_jump_ns_ = context_.now_ns;
    ledger_.time_has_jumped();
  }
  if (context_.fault(Dial::kRealClockJump)) {
    const std::int64_t by_ns = context_.random.between(-kJump_ns, kJump_ns);
    context_.note(What::kRealJump, 0, by_ns);
    context_.real_ahead_ns += by_ns;
  }
  if (shutdown_at_ns_ != kNever_ns) return;
  const bool over = to_come_ == 0 && context_.random.below(16) == 0;
  if (over || context_.fault(Dial::kEarlyShutdown)) begin_shutdown();
}

void World::read_steward_mail() {
  if (context_.now_ns < steward_busy_until_ns_) return;
  // Whoever acts on what a shard says has to find what the shard sent before.
  if (!mail_.deliver_all_of_shards()) return;
  StewardMessage message;
  while (steward_.receive(message))
    receive(message);
  std::uint64_t known = UINT64_MAX;
  for (const auto& seat : seats_)
    known = std::min(known, seat->routes_version.load());
  backends_.routes_are_known(known);
  if (context_.fault(Dial::kSlowSteward))
    steward_busy_until_ns_ = context_.now_ns + context_.random.skewed(kStewardPause_ns);
}

void World::receive(StewardMessage& message) {
  using Kind = StewardMessage::Kind;
  switch (message.kind) {
    case Kind::kSink:
      return backends_.lane_returns(std::move(message.sink));
    case Kind::kSinkNotice:
      if (static_cast<handoff::LaneNotice>(message.detail) == handoff::LaneNotice::kBroken)
        backends_.lane_is_broken(message.number);
      return;
    case Kind::kShardDone:
      context_.note(What::kDone, message.number);
      if (++shards_done_ == seats_.size()) stop();
      return;
    case Kind::kNone:
    case Kind::kRefusal:
    case Kind::kAcceptFailed:
    case Kind::kShardPaused:
    case Kind::kPassedOn:
      return;
  }
}

void World::check_all() {
  clients_.for_each([this](std::uint32_t, const Client& client) { check_client(client); });
  if (shutdown_at_ns_ != kNever_ns &&
      context_.now_ns > shutdown_at_ns_ + 2 * kLinger_ns + 2 * kSlack_ns &&
      context_.now_ns > last_jump_ns_ + kSlack_ns)
    broken(6, "a shard does not end");
}

// Nobody waits for ever: whatever a client waits for has a deadline.
void World::check_client(const Client& client) const {
  if (client.accepted_ns == 0 || client.received > 0) return;
  if (context_.now_ns < last_jump_ns_ + kSlack_ns) return;
  const std::int64_t handshake_ns = context_.ms(Dial::kHandshakeMs);
  const std::int64_t search_ns = context_.ms(Dial::kHandoffMs) + context_.ms(Dial::kStallMs);
  std::int64_t most_ns = handshake_ns + 2 * context_.ms(Dial::kRoomWaitMs);
  if (client.answer == Told::kMinus || client.answer == Told::kNames)
    most_ns = handshake_ns + 2 * kLinger_ns;
  if (client.answer == Told::kPlus) most_ns = 4 * search_ns;
  const std::int64_t for_ns = context_.now_ns - client.decided_ns;
  if (for_ns <= most_ns + kSlack_ns) return;
  broken(2, fmt::format("client {} has waited for {} ms, and nothing happens: told {}, in {} lanes",
                        client.serial, for_ns / kNanosPerMilli, static_cast<int>(client.answer),
                        client.in_lanes));
}

}  // namespace tcpmux::sim
