// One simulated world: shards of production (Shard, Router, Lane, Connection, Mailbox), on the
// simulated kernel, in one thread and in virtual time.
//
// A step is one turn of one shard, or one happening around them, whichever is next. After every
// step the invariants are checked that can have broken in it; every so often all clients are.
//
//   serving --upgrade--> settling --> pausing --> the successor serves, and the old one leaves
//      '--shutdown--> ended              '--> it was for nothing: serving again
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/backends.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"
#include "tests/sim/process.h"

namespace tcpmux::sim {

struct WorldResult {
  std::uint64_t connections = 0;  // clients that the mux has accepted
  std::uint64_t received = 0;     // by backends
  std::uint64_t taken_back = 0;
  std::uint64_t passed = 0;
  std::uint64_t passed_on = 0;  // to a successor
  std::uint64_t refused = 0;
  std::uint64_t closed_without_backend = 0;
  std::uint64_t turns = 0;
  std::uint64_t upgrades = 0;
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
  enum class Upgrade : std::uint8_t { kNone, kSettling, kPausing };

  std::uint32_t lanes_max() const;
  std::uint32_t descriptors_max() const;
  SimBackend::Parts parts() { return {context_, kernel_, clients_, ledger_}; }
  Process& current() { return *processes_[current_]; }
  Process* predecessor() { return processes_[1 - current_].get(); }

  // --- a step (world.cc) ---
  bool step();
  void wake_up();
  void turn(Process& process, Seat& seat);
  void check_turn(Seat& seat);
  void happen(const Happening& happening);
  void client_comes();
  void change();
  void read_steward_mail(Process& process);
  void receive(Process& process, StewardMessage& message);
  void check_all();
  std::string who_does_not_end() const;
  void check_client(const Client& client) const;

  // --- what changes (world_changes.cc) ---
  void make_table();
  void change_configuration();
  void jump();
  void begin_upgrade();
  void settle();
  void shard_paused(Process& process);
  void go_on();
  void succeed();
  void pass_on(PassedConnection connection);

  // --- the end (world.cc) ---
  void begin_shutdown();
  void shard_done(Process& process);
  void end_shards(Process& process);
  void end_predecessor();
  void end_all();

  Context& context_;
  Clients clients_;
  Kernel kernel_;
  Ledger ledger_;
  std::vector<std::shared_ptr<const ServiceTable>> tables_;
  Backends backends_;
  std::array<std::unique_ptr<Process>, 2> processes_;
  std::size_t current_ = 0;
  Upgrade upgrade_ = Upgrade::kNone;
  std::uint64_t to_come_;
  std::uint64_t steps_ = 0;
  std::int64_t shutdown_at_ns_ = kNever_ns;
  std::int64_t last_jump_ns_ = 0;  // when time jumped last
  WorldResult result_;
};

extern World* world;

}  // namespace tcpmux::sim
