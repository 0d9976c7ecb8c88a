#include "tests/sim/ledger.h"

#include <fmt/format.h>

namespace tcpmux::sim {
namespace {

// A shard's turn, a message between threads, a retry: far less than this, where nothing is wrong
// with the shard's own pace.
constexpr std::int64_t kSlack_ns = 300 * kNanosPerMilli;

void equal(std::uint32_t shard, int invariant, std::string_view what, std::uint64_t counted,
           std::uint64_t booked) {
  if (counted == booked) [[likely]]
    return;
  broken(invariant,
         fmt::format("shard {} has {} {}; the books say {}", shard, what, counted, booked));
}

}  // namespace

Refusal refusal_of(std::span<const char> reply) {
  const std::string_view text(reply.data(), reply.size());
  for (int i = 0; i < kRefusalCount; ++i)
    if (refusal_reply(static_cast<Refusal>(i)) == text) return static_cast<Refusal>(i);
  broken(7, fmt::format("a client is told '{}'", text));
}

void Ledger::tells(Client& client, std::span<const char> bytes) {
  const Outside outside;
  if (bytes.empty()) broken(7, fmt::format("client {} is told nothing", client.serial));
  const Told kind = bytes[0] == '+' ? Told::kPlus : bytes[0] == '-' ? Told::kMinus : Told::kNames;
  // The list of names may go in parts, which begin with anything.
  if (client.answer == Told::kNames) return;
  if (client.answer != Told::kNothing)
    broken(2, fmt::format("client {} is answered twice", client.serial));
  client.answer = kind;
  client.decided_ns = context_.now_ns;
  if (kind == Told::kNames) {
    ++current().helped;
    if (client.asks != Asks::kHelp)
      broken(7, fmt::format("client {} did not ask for names", client.serial));
  }
  if (kind == Told::kMinus) {
    const Refusal refusal = refusal_of(bytes);
    ++current().refused[static_cast<std::size_t>(refusal)];
    check_refusal(client, refusal);
  }
  if (kind == Told::kPlus && client.asks != Asks::kService)
    broken(7,
           fmt::format("client {} is told '+', and did not ask for what is served", client.serial));
}

// What a client may be told depends on what it said; -busy and -shutting down anybody may hear.
void Ledger::check_refusal(const Client& client, Refusal refusal) const {
  bool right = false;
  switch (refusal) {
    case Refusal::kBusy:
    case Refusal::kShuttingDown:
      return;
    case Refusal::kUnknown:
      // HELP may be off, and what was too long need not be.
      right = client.asks != Asks::kService && client.asks != Asks::kLonely &&
              client.asks != Asks::kMalformed;
      break;
    case Refusal::kInvalid:
      right = client.asks == Asks::kMalformed || client.asks == Asks::kEndless;
      break;
    case Refusal::kTooLong:
      right = client.asks == Asks::kTooLong || client.asks == Asks::kEndless;
      break;
    case Refusal::kDenied:
      right = client.asks == Asks::kForbidden;
      break;
    case Refusal::kUnavailable:
      right = client.asks == Asks::kLonely ||
              (client.asks == Asks::kService &&
               services[client.service].registered_since_ns >= client.accepted_ns);
      break;
  }
  if (!right)
    broken(7, fmt::format("client {} is told '{}', without cause", client.serial,
                          refusal_word(refusal)));
}

void Ledger::closes(Client& client, bool dropped) {
  const Outside outside;
  client.decided_ns = context_.now_ns;
  if (client.handed()) {
    if (dropped) broken(1, fmt::format("client {} is dropped in a lane", client.serial));
    return;
  }
  switch (client.answer) {
    case Told::kMinus:
    case Told::kNames:
      return;
    case Told::kNothing:
      // A connection that was passed on, to a shard without a slot.
      if (dropped) ++current().refused[static_cast<std::size_t>(Refusal::kBusy)];
      if (!dropped) ++current().silent;
      if (!dropped) check_silence(client);
      return;
    case Told::kPlus:
      break;
  }
  if (client.answer_failed) {
    ++current().answer_failed;
    return;
  }
  ++current().closed_without_backend;
  check_loss(client);
}

// Closed without a word: its own fault, or its deadline's.
void Ledger::check_silence(const Client& client) const {
  const bool timed_out = context_.now_ns - client.accepted_ns >= context_.ms(Dial::kHandshakeMs);
  if (client.is_gone() || timed_out) return;
  broken(2, fmt::format("client {} is closed without a word and without cause", client.serial));
}

// It was told '+', and then closed: right only where nobody could have served it.
void Ledger::check_loss(const Client& client) const {
  const std::int64_t able_ns = services[client.service].able_since_ns;
  const std::int64_t search_ns = context_.ms(Dial::kHandoffMs) + context_.ms(Dial::kStallMs);
  if (able_ns == kNever_ns || context_.now_ns - able_ns < 2 * search_ns + kSlack_ns) return;
  // A deadline that passed while nobody could look.
  if (paused_ns >= context_.ms(Dial::kHandoffMs) / 2) return;
  broken(2, fmt::format("client {} was told '+' and is closed, though a backend has been able to "
                        "serve it for {} ms",
                        client.serial, (context_.now_ns - able_ns) / kNanosPerMilli));
}

void Ledger::compare(std::uint32_t shard, const ShardCounters& counters,
                     std::uint32_t slots_taken) {
  const Account& account = accounts_[shard];
  equal(shard, 1, "accepted", counters.accepted.read(), account.accepted);
  equal(shard, 2, "handed off", counters.handed_off.read(), account.handed_off);
  equal(shard, 2, "messages", counters.messages.read(), account.messages);
  equal(shard, 2, "taken back", counters.taken_back.read(), account.taken_back);
  equal(shard, 2, "closed without a backend", counters.closed_without_backend.read(),
        account.closed_without_backend);
  equal(shard, 2, "passed", counters.passed.read(), account.passed);
  equal(shard, 7, "helped", counters.helped.read(), account.helped);
  equal(shard, 6, "shed", counters.shed.read(), account.shed);
  equal(shard, 6, "lanes found full", counters.lane_full.read(), account.lane_full);
  for (int i = 0; i < kRefusalCount; ++i) {
    const auto refusal = static_cast<std::size_t>(i);
    equal(shard, 7, refusal_word(static_cast<Refusal>(i)), counters.refused[refusal].read(),
          account.refused[refusal]);
  }
  // What is on its way to the steward is in no slot.
  const std::uint64_t on_their_way = counters.passed_on.read() - account.passed_on;
  equal(shard, 1, "slots taken", slots_taken + on_their_way, kernel_.owned_by(shard));
}

void Ledger::balance(std::uint32_t shard, const ShardCounters& counters) const {
  const Account& account = accounts_[shard];
  equal(shard, 2, "timed out or gone", counters.timed_out.read() + counters.peer_gone.read(),
        account.silent + account.answer_failed);
}

void Ledger::close_account(std::uint32_t shard) {
  const Account account = std::exchange(accounts_[shard], {});
  accepted_ += account.accepted;
  ends_ += account.handed_off - account.taken_back + account.helped + account.silent +
           account.answer_failed + account.closed_without_backend;
  for (const std::uint64_t refused : account.refused)
    ends_ += refused;
}

void Ledger::balance_all() const {
  if (accepted_ == ends_) return;
  broken(2, fmt::format("{} connections were accepted, and {} have ended", accepted_, ends_));
}

// Whoever could serve a moment ago has had no time to do it.
void Ledger::time_has_jumped() {
  for (Service& service : services)
    if (service.able_since_ns != kNever_ns) service.able_since_ns = context_.now_ns;
}

}  // namespace tcpmux::sim
