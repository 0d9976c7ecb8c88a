// One process of the mux, as far as it is simulated: its shards, their mailboxes, and its steward
// with a loop, the registry and a mailbox. A world has one; during an upgrade two, on the same
// kernel.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/server/event_loop.h"
#include "core/server/shard.h"
#include "handoff/registry.h"
#include "handoff/router.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/engine.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"
#include "tests/sim/mail.h"

namespace tcpmux::sim {

struct Seat {
  using SimShard = Shard<SimBackend, handoff::Router<SimBackend>>;

  ShardCounters counters;
  SimBackend* engine = nullptr;  // owned by the shard
  std::unique_ptr<SimShard> shard;
  std::uint32_t number = 0;  // in the world
  std::uint32_t slots = 0;
  std::int64_t busy_until_ns = 0;
  std::int64_t paused_ns = 0;    // after its last turn
  std::uint32_t idle_turns = 0;  // in a row
  bool ended = false;
};

class Process {
 public:
  // Its shards are numbered from `first` on in the world, and from 0 on for themselves. `before`:
  // whose registry it is to take over; nullptr: nobody's.
  Process(SimBackend::Parts parts, std::uint32_t first, std::shared_ptr<const ServiceTable> table,
          handoff::RegistryOptions options, const Process* before);

  // Among the kernel's.
  std::uint32_t number() const { return first / (kShardsMax / kProcessesMax); }

  std::uint32_t size() const { return static_cast<std::uint32_t>(seats.size()); }
  // They begin to serve; what lies in their mailboxes is theirs.
  void begin(Context& context, Kernel& kernel);
  // To all shards.
  void post_all(ShardMessage::Kind kind, std::int64_t deadline_ns = kNever_ns);
  bool has_ended() const;
  // The lowest version of the routes that its shards have.
  std::uint64_t routes_version() const;

  std::uint32_t first;
  Mail mail;
  StewardMailbox steward;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<handoff::Registry> registry;
  std::vector<std::unique_ptr<Seat>> seats;
  std::uint32_t shards_paused = 0;
  std::uint32_t shards_done = 0;
  bool is_stopped = false;
  std::int64_t leaving_since_ns = kNever_ns;
  std::int64_t steward_busy_until_ns = 0;
  std::int64_t loop_due_ns = 0;                // when the loop is to run, whatever comes
  std::int64_t steward_called_ns = kNever_ns;  // when it is to look
  std::uint64_t loop_has_heard = 0;            // RegistryKernel::news() at its last turn
  std::uint32_t loop_idle_turns = 0;           // in a row

 private:
  void make_registry(Kernel& kernel, std::shared_ptr<const ServiceTable> table,
                     handoff::RegistryOptions options, const Process* before);
  void make_seat(const SimBackend::Parts& parts, std::uint32_t number,
                 const std::shared_ptr<const ServiceTable>& table);
};

// What the dials say of a shard's settings, and of the registry's.
ShardSettings settings_of(const Context& context);
handoff::RegistryOptions registry_options_of(const Context& context);

}  // namespace tcpmux::sim
