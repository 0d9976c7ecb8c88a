// One simulated world: shards and the registry of production (Shard, Router, Lane, Connection,
// Mailbox, Registry), on the simulated kernel, in one thread and in virtual time.
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
#include "tests/sim/registry_kernel.h"

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

  // --- for what the linker puts in the place of the kernel (seams.cc, seams_registry.cc) ---
  // OwnFd's close, for a simulated descriptor.
  void close_owned(int fd);
  Kernel& kernel() { return kernel_; }
  RegistryKernel& registry_kernel() { return registry_; }
  bool is_running() const { return is_running_; }
  // The loop that has just had its turn is to have the next one then.
  void loop_is_due(std::int64_t at_ns) { loop_due_ns_ = at_ns; }

 private:
  enum class Upgrade : std::uint8_t { kNone, kSettling, kPausing };

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
  void check_all();
  std::string who_does_not_end() const;
  void check_client(const Client& client) const;

  // --- the steward's turns (world_steward.cc) ---
  void steward_turn(Process& process);
  void receive(Process& process, StewardMessage& message);
  void take_lane(Process& process, std::unique_ptr<SinkMessage> message);
  void run_loop(Process& process);
  void call_steward(Process& process);
  void check_registry(const Process& process) const;

  // --- what changes (world_changes.cc) ---
  void make_table();
  void change_configuration();
  void jump();
  void begin_upgrade();
  void settle();
  void shard_paused(Process& process);
  void go_on();
  void succeed();
  void begin_successor();
  bool give_everything(std::size_t most);
  void pass_on(PassedConnection connection);

  // --- the end (world_end.cc) ---
  void begin_end();
  void look_who_has_left();
  void begin_shutdown();
  void shard_done(Process& process);
  void end_shards(Process& process);
  void end_predecessor();
  void end_all();

  Context& context_;
  Clients clients_;
  Kernel kernel_;
  RegistryKernel registry_;
  Ledger ledger_;
  std::vector<std::shared_ptr<const ServiceTable>> tables_;
  Backends backends_;
  std::array<std::unique_ptr<Process>, 2> processes_;
  std::size_t current_ = 0;
  Upgrade upgrade_ = Upgrade::kNone;
  std::uint64_t to_come_;
  std::uint64_t steps_ = 0;
  std::int64_t shutdown_at_ns_ = kNever_ns;
  std::int64_t last_jump_ns_ = 0;        // when time jumped last
  std::int64_t upgraded_ns_ = 0;         // when the last upgrade ended, one way or the other
  std::int64_t leaving_ns_ = kNever_ns;  // since when all backends leave, before the shutdown
  std::int64_t loop_due_ns_ = 0;
  bool is_running_ = false;
  WorldResult result_;
};

extern World* world;

}  // namespace tcpmux::sim
