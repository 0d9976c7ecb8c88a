// One simulated world: shards of production (Shard, Router, Lane, Connection, Mailbox), on the
// simulated kernel, in one thread and in virtual time.
//
// A step is one turn of one shard, or one happening around them, whichever is next. After every
// step the invariants are checked that can have broken in it; every so often all clients are.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/server/shard.h"
#include "handoff/router.h"
#include "tests/sim/backends.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/engine.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"
#include "tests/sim/mail.h"

namespace tcpmux::sim {

struct WorldResult {
  std::uint64_t connections = 0;  // clients that the mux has accepted
  std::uint64_t received = 0;     // by backends
  std::uint64_t taken_back = 0;
  std::uint64_t passed = 0;
  std::uint64_t refused = 0;
  std::uint64_t closed_without_backend = 0;
  std::uint64_t turns = 0;
  std::uint64_t forced = 0;  // worlds in which a shard was made to end
  std::uint64_t hash = 0;
  std::array<std::uint64_t, kDialCount> injected{};
};

class World {
 public:
  explicit World(Context& context);
  ~World();

  WorldResult run();
  // OwnFd's close, for a simulated descriptor (seams.cc).
  void close_owned(int fd);

 private:
  using SimShard = Shard<SimBackend, handoff::Router<SimBackend>>;
  struct Seat {
    ShardCounters counters;
    std::atomic<std::uint64_t> routes_version = 0;
    SimBackend* engine = nullptr;  // owned by the shard
    std::unique_ptr<SimShard> shard;
    std::uint32_t slots = 0;
    std::int64_t busy_until_ns = 0;
    std::uint32_t idle_turns = 0;  // in a row
    bool ended = false;
  };

  void make_table();
  void make_shard(std::uint32_t number);
  std::uint32_t lanes_max() const;
  std::uint32_t descriptors_max() const;

  // --- a step ---
  bool step();
  void turn(std::uint32_t number);
  void check_turn(std::uint32_t number);
  void happen(const Happening& happening);
  void client_comes();
  void change();
  void read_steward_mail();
  void receive(StewardMessage& message);
  void swap_table();
  void check_all();
  void check_client(const Client& client) const;

  // --- the end ---
  void begin_shutdown();
  void stop();
  void end_process();
  WorldResult sum_up() const;

  Context& context_;
  Clients clients_;
  Kernel kernel_;
  Ledger ledger_;
  Mail mail_;
  Backends backends_;
  StewardMailbox steward_;
  std::vector<std::shared_ptr<const ServiceTable>> tables_;
  std::vector<std::unique_ptr<Seat>> seats_;
  std::uint64_t to_come_;
  std::uint64_t steps_ = 0;
  std::uint64_t turns_ = 0;
  std::uint32_t shards_done_ = 0;
  std::int64_t shutdown_at_ns_ = kNever_ns;
  std::int64_t last_jump_ns_ = 0;  // when time jumped last
  std::int64_t steward_busy_until_ns_ = 0;
  bool forced_ = false;
};

extern World* world;

}  // namespace tcpmux::sim
