// The registry: the half of the handoff that runs on the steward's thread. Backends connect to its
// Unix socket, register names and are given lanes (handoff/PROTOCOL.md); when a backend's
// connection ends, the shards take back what it never received.
//
//   connected --Register--> routing --all shards know--> serving --Drain--> draining
//       |                      |        (Welcome)           |                  |
//       '------ refused -------'-- Goodbye, end, malformed, lane broken -------'---> gone
//
// The Welcome is sent when every shard has the lanes and the routes: a client that connects after
// it is served.
//
// Ownership: the registry makes a lane and sends it to its shard, whose it is until it comes back
// ended. Descriptors are a budget: two for each lane, one for each connection.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/mux/service_table.h"
#include "core/server/event_loop.h"
#include "core/server/messages.h"
#include "core/server/status.h"
#include "handoff/credentials.h"
#include "handoff/lane.h"
#include "handoff/message.h"
#include "handoff/registry_socket.h"

namespace tcpmux::handoff {

// How many names nobody configured may be registered, where the registry is open.
inline constexpr std::size_t kServicesAhead = 1024;

struct RegistryOptions {
  std::string path;
  bool open = false;  // may names be registered that nobody configured?
  std::vector<uid_t> users;
  std::vector<gid_t> groups;
  std::uint32_t window_max = 1024;
  std::uint16_t batch_max = kSocketsPerMessageMax;
  std::uint32_t lanes_per_shard_max = 0;
  std::uint32_t descriptors_max = 0;  // for lanes and connections
  std::uint64_t windows_max = 0;      // sum over all lanes: the kernel's limit of sockets in flight
  std::uint32_t services_max = 0;     // ids that shards have places for
  std::int64_t register_within_ns = 10 * kNanosPerSecond;  // of connecting (PROTOCOL.md)
};

class Registry {
 public:
  // Takes the path over from a daemon that crashed; refuses, naming the pid, where one lives.
  static Result<std::unique_ptr<Registry>> open(RegistryOptions options, EventLoop& loop,
                                                std::shared_ptr<const ServiceTable> table,
                                                std::vector<ShardMailbox*> shards);
  // Takes the place of a daemon that lives: it listens after inherit_end() only.
  static std::unique_ptr<Registry> take_over(RegistryOptions options, RegistrySocket socket,
                                             EventLoop& loop,
                                             std::shared_ptr<const ServiceTable> table,
                                             std::vector<ShardMailbox*> shards);
  ~Registry();

  // For the router of each shard (RouterOptions::routes_version).
  std::atomic<std::uint64_t>* routes_version(std::uint32_t shard) {
    return &routes_versions_[shard];
  }

  // From the steward's mailbox: an ended lane, and what routers notice.
  void receive(std::unique_ptr<SinkMessage> message);
  void receive_notice(const StewardMessage& notice);

  // No more registrations; backends are told that no more handoffs will come, or that we leave.
  void begin_shutdown();
  void say_goodbye();

  std::size_t backend_count() const;
  std::vector<BackendStatus> backends() const;  // those that have registered
  const ServiceTable& table() const { return *table_; }
  std::uint32_t services_max() const { return options_.services_max; }

  // --- a new configuration (registry_succession.cc) ---
  // What may not change (path, limits of lanes and descriptors) is not looked at.
  void change(const RegistryOptions& options, const ServiceTable& configured, std::int64_t stall_ns,
              std::int64_t deadline_ns);

  // --- a successor (registry_succession.cc) ---
  // Paused, nobody is listened to, and lanes that come back are kept. At rest: nothing is on its
  // way to a shard or to a backend, so that what give() tells is all there is.
  void pause();
  bool at_rest() const;
  void resume();
  // Tells `to` of every backend and every lane, and in the end of what else the successor needs.
  using Giving = std::function<void(const nlohmann::json& state, std::span<const int> descriptors)>;
  void give(const Giving& to) const;
  // The successor serves: the path, backends and lanes are no longer ours, and no backend is told
  // that we leave.
  void give_up();
  const std::string& path() const { return socket_.path(); }
  int socket_fd() const { return socket_.fd(); }
  int lock_fd() const { return socket_.lock(); }
  std::size_t lane_count() const;

  // --- a predecessor (registry_succession.cc) ---
  // What its give() told, in that order. An error: the state is not one that we understand.
  Status inherit(const nlohmann::json& state, std::vector<OwnFd> descriptors);

 private:
  struct Backend {
    std::uint64_t id = 0;
    OwnFd connection;
    Credentials peer;
    std::int64_t connected_ns = 0;
    bool registered = false;               // it has lanes
    std::uint64_t welcome_at_version = 0;  // 0: the Welcome has been sent, or is not due
    std::vector<int> far_ends;             // for the Welcome; owned by the lanes
    std::uint32_t window = 0;              // granted, for each lane
    std::uint16_t batch = 0;
    std::uint32_t lanes = 0;
    bool draining = false;
    std::string names;  // for the log: "echo, time"
    std::vector<ServiceId> services;
    std::uint64_t shards = 0;  // bit n: has a lane on shard n
  };
  // Refuse and end, or end alone.
  struct Refused {
    RefuseCode code;
    std::string reason;
  };

  Registry(RegistryOptions options, EventLoop& loop, std::shared_ptr<const ServiceTable> table,
           std::vector<ShardMailbox*> shards, RegistrySocket socket);

  // --- the path (registry_path.cc) ---
  void watch_path();
  void look_at_path();
  void restore_path();

  // --- connections (registry.cc) ---
  void accept();
  void readable(std::uint64_t id);
  void handle(Backend& backend, std::span<const std::byte> message);
  void refuse(Backend& backend, const Refused& refused);
  void end(std::uint64_t id, const std::string& why);
  void drain(Backend& backend);
  std::int64_t next_tick_ns() const;
  void tick();
  void post(std::size_t shard, ShardMessage message);
  void flush_outboxes();
  void send_routes(const std::vector<ServiceId>& services);
  void send_due_welcomes();

  std::vector<std::string> names_of(const std::vector<ServiceId>& services) const;
  void listen_to_all();
  void account_for(const Lane& lane);
  void hand_over(std::unique_ptr<Lane> lane);
  Status inherit_backend(const nlohmann::json& state, OwnFd connection);
  Status inherit_lane(const nlohmann::json& state, OwnFd ours, OwnFd theirs);
  Status inherit_end(const nlohmann::json& state);
  Result<std::vector<ServiceId>> services_named(const std::vector<std::string>& names);
  void use_table(std::shared_ptr<const ServiceTable> table, std::size_t places = 0);

  // --- registering (registry_register.cc) ---
  void handle_register(Backend& backend, std::span<const std::byte> message);
  std::expected<void, Refused> check_names(const Backend& backend, const Register& asked) const;
  std::expected<void, Refused> check_user(const Backend& backend, const std::string& name) const;
  std::expected<std::uint32_t, Refused> grant_window(const Register& asked,
                                                     std::uint32_t lanes) const;
  std::expected<std::vector<ServiceId>, Refused> services_of(const Register& asked);
  std::expected<std::vector<std::unique_ptr<Lane>>, Refused> make_lanes(const Backend& backend,
                                                                        const Register& asked,
                                                                        std::uint32_t count,
                                                                        std::uint32_t window);
  std::expected<void, Refused> check_room(const Backend& backend, std::uint32_t lanes) const;
  std::expected<void, Refused> serve(Backend& backend, const Register& asked);
  void hand_to_shards(Backend& backend, std::vector<std::unique_ptr<Lane>> lanes);
  bool welcome(Backend& backend);
  std::size_t shard_of(const Backend& backend, std::uint32_t lane) const;

  RegistryOptions options_;
  EventLoop& loop_;
  std::shared_ptr<const ServiceTable> table_;
  std::vector<ShardMailbox*> shards_;
  RegistrySocket socket_;
  std::map<std::uint64_t, Backend> backends_;
  std::vector<std::deque<ShardMessage>> outboxes_;  // by shard: what its mailbox had no room for
  std::vector<std::uint32_t> lanes_on_shard_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> routes_versions_;  // by shard
  std::uint64_t routes_version_ = 0;
  std::uint64_t next_id_ = 1;
  std::int64_t ticked_at_ns_ = 0;
  std::int64_t accept_paused_until_ns_ = kNever_ns;  // kNever_ns exactly when we listen
  std::int64_t look_at_path_ns_ = kNever_ns;
  std::string path_trouble_;  // why the path is not ours; empty exactly when it is
  std::uint32_t descriptors_used_ = 0;
  std::uint64_t windows_used_ = 0;
  bool shutting_down_ = false;
  bool paused_ = false;
  bool given_up_ = false;
  std::vector<std::unique_ptr<Lane>> away_;  // while paused: lanes that no shard has
};

}  // namespace tcpmux::handoff
