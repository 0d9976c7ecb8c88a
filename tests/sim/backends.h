// The backends, and the registry's side of them. The registry of production is not run: what it
// says to shards (lanes, routes, a backend that drains or is gone) is said here, in its order.
//
// A backend is a script: it receives from its lanes, message by message, each in its time; it
// stalls, wakes up, dies, loses its registration while it goes on receiving, and comes back.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/server/messages.h"
#include "handoff/lane.h"
#include "handoff/message.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"
#include "tests/sim/process.h"

namespace tcpmux::sim {

struct SimProcess {
  std::uint32_t generation = 0;
  std::uint64_t id = 0;  // 0 exactly when the place is free
  bool registered = false;
  bool draining = false;
  bool stalled = false;
  bool receives_soon = false;
  bool shut_a_lane = false;
  bool left = false;           // its registration ends when the registry hears of it
  std::uint32_t services = 0;  // bit n: service n
  std::uint64_t shards = 0;    // bit n: it has a lane on shard n
  std::uint64_t version = 0;   // of the routes that name it first
  std::vector<std::uint32_t> lanes;
};

class Backends final : public LaneReader {
 public:
  struct Parts {
    Context& context;
    Kernel& kernel;
    Clients& clients;
    Ledger& ledger;
  };
  Backends(Parts parts, std::uint32_t lanes_max);
  // Which process's shards they are told of.
  void serve(Process& process);

  // The tables that there have been; the last is the newest.
  void set_tables(const std::vector<std::shared_ptr<const ServiceTable>>* tables) {
    tables_ = tables;
  }

  // Happenings.
  void receive_from(std::uint32_t place, std::uint32_t generation);
  void wake(std::uint32_t place, std::uint32_t generation);
  void drop(std::uint32_t client, std::uint32_t generation);
  void register_missing();

  // From the steward's mailbox.
  void lane_returns(std::unique_ptr<SinkMessage> message);
  void lane_is_broken(std::uint64_t backend);
  // The version of the routes that every shard has.
  void routes_are_known(std::uint64_t version);

  void stop_registering() { closed_ = true; }
  // The registry hears nobody, and keeps lanes that come back.
  void pause() { paused_ = true; }
  // Lanes go to their shards again, and whoever has left meanwhile is gone.
  void resume();
  // The same with the shards of another process, to which everything goes.
  void move_to(Process& process);
  // The mux has ended: backends empty their lanes, and leave.
  void empty_and_leave();

  // LaneReader
  void lane_has_something(std::uint32_t lane) override;
  void may_receive_now(std::uint32_t lane) override;

 private:
  void register_one();
  void make_lane(SimProcess& process, std::uint32_t place, std::uint32_t shard, bool raw);
  void send_routes(std::uint32_t services);
  void command(handoff::RouterMessage::Kind kind, std::uint64_t backend);
  void end_registration(SimProcess& process);
  void hand_over(std::unique_ptr<handoff::Lane> lane);
  void hear_who_has_left();
  void clear(SimProcess& process);
  void die(std::uint32_t place);
  void misbehave(std::uint32_t place);
  void stall(SimProcess& process, std::uint32_t place);
  void soon(std::uint32_t place);
  bool receive_one(std::uint32_t place, std::uint32_t lane);
  void take(const SimProcess& process, const SimLane& lane, const LaneMessage& message);
  void check_facts(Client& client, const handoff::Facts& facts) const;
  void check_plus(const Client& client) const;
  void look_who_is_able();

  Context& context_;
  Kernel& kernel_;
  Clients& clients_;
  Ledger& ledger_;
  Mail* mail_ = nullptr;
  std::uint32_t shards_;
  std::uint32_t first_ = 0;  // the number of the first of them
  bool paused_ = false;
  std::vector<std::unique_ptr<handoff::Lane>> away_;
  const std::vector<std::shared_ptr<const ServiceTable>>* tables_ = nullptr;
  std::vector<SimProcess> processes_;
  std::vector<std::uint32_t> lanes_on_shard_;
  std::uint32_t lanes_ = 0;  // that the mux has not closed
  std::uint32_t lanes_max_;
  std::uint64_t next_id_ = 1;
  std::uint64_t routes_version_ = 0;
  std::uint64_t routes_known_ = 0;
  bool closed_ = false;
};

}  // namespace tcpmux::sim
