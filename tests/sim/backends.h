// The backends: scripts. One connects to the registry and registers (handoff/PROTOCOL.md), receives
// from its lanes, message by message, each in its time; it stalls, wakes up, dies, talks nonsense
// to the registry while it goes on receiving, and another one comes in its place.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "handoff/message.h"
#include "tests/sim/client.h"
#include "tests/sim/context.h"
#include "tests/sim/kernel.h"
#include "tests/sim/ledger.h"
#include "tests/sim/process.h"
#include "tests/sim/registry_kernel.h"

namespace tcpmux::sim {

struct SimProcess {
  std::uint32_t generation = 0;
  std::uint64_t id = 0;  // 0 exactly when the place is free
  std::uint32_t connection = kNoConnection;
  handoff::Register asks;
  std::uint32_t services = 0;  // bit n: service n
  bool is_stranger = false;
  bool has_asked = false;
  bool rubbish = false;        // it has sent what ends its registration
  bool other_version = false;  // of another version
  bool deaf = false;           // it does not read what the registry says
  bool hears_soon = false;
  bool welcomed = false;
  bool refused = false;
  bool draining = false;
  bool leaving = false;  // its registration ends, or never begins; it goes when it wakes
  bool stalled = false;
  bool receives_soon = false;
  bool shut_a_lane = false;
  std::vector<std::uint32_t> lanes;
};

class Backends final : public LaneReader, public RegistryReader {
 public:
  struct Parts {
    Context& context;
    Kernel& kernel;
    Clients& clients;
    Ledger& ledger;
    RegistryKernel& registry;
  };
  explicit Backends(Parts parts);
  // Which process's registry they speak to. Who is registered counts as such when its shards know.
  void serve(Process& process);

  // The tables that there have been; the last is the newest.
  void set_tables(const std::vector<std::shared_ptr<const ServiceTable>>* tables) {
    tables_ = tables;
  }

  // Happenings.
  void receive_from(std::uint32_t place, std::uint32_t generation);
  void wake(std::uint32_t place, std::uint32_t generation);
  void drop(std::uint32_t client, std::uint32_t generation);
  void speak(std::uint32_t place, std::uint32_t generation);
  void hear(std::uint32_t place, std::uint32_t generation);
  void register_missing();

  void look_at_routes();
  // Nobody comes any more, and whoever is there leaves.
  void all_leave();
  void mux_shuts_down() { shutting_down_ = true; }
  // Whoever waits for an answer of the registry gets it in time.
  void check_waiting(std::int64_t since_ns) const;
  // The mux has ended: backends empty their lanes, and leave.
  void empty_and_leave();

  // LaneReader
  void lane_has_something(std::uint32_t lane) override;
  void may_receive_now(std::uint32_t lane) override;
  // RegistryReader
  void registry_says_something(std::uint32_t connection) override;
  void registry_sends(std::uint32_t connection, std::span<const std::byte> payload) override;

 private:
  SimProcess* who_has(std::uint32_t connection);
  bool is_able(const SimProcess& process) const;
  SimProcess* start_one();
  void choose(SimProcess& process);
  void ask_too_much(SimProcess& process);
  void register_again();
  void say(SimProcess& process, std::vector<std::byte> message, bool is_to_be_answered);
  void say_rubbish(SimProcess& process);
  void take_in(SimProcess& process, const RegistryMessage& message);
  void is_welcomed(SimProcess& process, const RegistryMessage& message);
  void check_grant(const SimProcess& process, const handoff::Welcome& welcome,
                   const RegistryMessage& message) const;
  void connection_ended(SimProcess& process);
  bool may_be_refused(const SimProcess& process, handoff::RefuseCode code) const;
  bool has_no_room_for(const SimProcess& process) const;
  void leave_soon(SimProcess& process, std::int64_t within_ns);
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
  std::uint32_t place_of(const SimProcess& process) const {
    return static_cast<std::uint32_t>(&process - processes_.data());
  }

  Context& context_;
  Kernel& kernel_;
  Clients& clients_;
  Ledger& ledger_;
  RegistryKernel& registry_;
  Process* mux_ = nullptr;
  handoff::RegistryOptions limits_;
  std::size_t places_max_;
  std::uint32_t shards_;
  const std::vector<std::shared_ptr<const ServiceTable>>* tables_ = nullptr;
  std::vector<SimProcess> processes_;
  std::uint64_t next_id_ = 1;
  std::uint64_t routes_awaited_ = 0;  // until every shard has this version, nobody counts
  std::int64_t not_before_ns_ = 0;    // nobody tries to connect
  bool closed_ = false;
  bool shutting_down_ = false;
  bool mux_has_ended_ = false;
};

}  // namespace tcpmux::sim
