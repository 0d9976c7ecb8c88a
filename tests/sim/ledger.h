// The books: for each shard what its counters have to say, written from what the simulated kernel
// sees and not from what the shard believes. After every turn the two are compared, and at the end
// every client is accounted for.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/server/shard_counters.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"

namespace tcpmux::sim {

struct Account {
  std::uint64_t accepted = 0;
  std::uint64_t handed_off = 0;
  std::uint64_t messages = 0;
  std::uint64_t taken_back = 0;
  std::uint64_t passed = 0;
  std::uint64_t passed_on = 0;  // that the steward has heard of
  std::uint64_t shed = 0;
  std::uint64_t helped = 0;
  std::uint64_t lane_full = 0;
  std::uint64_t closed_without_backend = 0;
  std::uint64_t silent = 0;         // closed without a word: timed_out or peer_gone
  std::uint64_t answer_failed = 0;  // '+' was not sent whole: peer_gone
  std::array<std::uint64_t, kRefusalCount> refused{};
};

class Ledger {
 public:
  Ledger(Context& context, Kernel& kernel) : context_(context), kernel_(kernel) {}

  Account& of(std::uint32_t shard) { return accounts_[shard]; }
  Account& current() { return accounts_[context_.shard]; }

  // The shard whose turn it is tells a client `bytes` (in a reply, or in dismissing it).
  void tells(Client& client, std::span<const char> bytes);
  // It closes its descriptor of a client. `dropped`: not by its engine, but with the message or
  // the place that owned it.
  void closes(Client& client, bool dropped);
  // Its counters, its slots: as the books say?
  void compare(std::uint32_t shard, const ShardCounters& counters, std::uint32_t slots_taken);
  // All have ended: what could not be compared before, and the sum in which every accepted client
  // appears once.
  void balance(std::uint32_t shard, const ShardCounters& counters) const;
  void balance_all() const;
  void time_has_jumped();
  // The shard has ended, and its number may be another's.
  void close_account(std::uint32_t shard);

  // Which services somebody can serve, since when (kNever_ns: nobody can): by service.
  struct Service {
    std::int64_t registered_since_ns = kNever_ns;  // and every shard knows of it
    std::int64_t able_since_ns = kNever_ns;        // and receives
  };
  std::array<Service, 16> services;

  // For how long the thread of the shard whose turn it is did not run before it.
  std::int64_t paused_ns = 0;

  std::uint64_t received = 0;
  std::uint64_t inherited = 0;

 private:
  void check_refusal(const Client& client, Refusal refusal) const;
  void check_silence(const Client& client) const;
  void check_loss(const Client& client) const;

  Context& context_;
  Kernel& kernel_;
  std::array<Account, kShardsMax> accounts_{};
  std::uint64_t accepted_ = 0;  // in closed accounts
  std::uint64_t ends_ = 0;
};

// "too_long" of "-too long for a service name\r\n".
Refusal refusal_of(std::span<const char> reply);

}  // namespace tcpmux::sim
