// Real shards on threads of their own, with listeners on the loopback, and the test in the place of
// the steward and of every backend: it makes the lanes, tells the shards of them as the registry
// does, and hears what they have to say.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/io/listener.h"
#include "core/server/shard.h"
#include "handoff/router.h"
#include "tests/contract/shard_backend.h"
#include "tests/contract/support.h"

namespace tcpmux::contract_test {

// Told by a shard's thread: true just before run(), false just after.
inline void (*shard_thread_runs)(bool) = [](bool) {};

// Longer than any test: such a deadline never comes.
inline constexpr std::int64_t kLong_ms = 600'000;
// Short, where a test waits for a deadline to pass.
inline constexpr std::int64_t kShort_ms = 40;

struct WorldOptions {
  std::uint32_t shards = 1;
  std::uint32_t connections_max = 64;
  std::uint32_t taken_back_max = 16;
  std::uint32_t lanes_max = 16;
  std::uint32_t line_bytes_max = 512;
  std::int64_t handshake_deadline_ms = kLong_ms;
  std::int64_t room_wait_ms = kLong_ms;
  std::int64_t stall_ms = kLong_ms;
  std::int64_t handoff_deadline_ms = kLong_ms;
  bool help_enabled = true;
  int listener_send_bytes = 0;  // SO_SNDBUF, which connections inherit; 0: the system's
  bool starts = true;           // else start() does it
  std::vector<Service> services = {{.name = "echo"}};
};

inline std::array<std::uint8_t, 8> run_id() {
  return {1, 2, 3, 4, 5, 6, 7, 8};
}

// What shards said to their steward.
struct Heard {
  std::vector<std::unique_ptr<handoff::Lane>> lanes;  // that came back
  std::vector<RefusalRecord> refusals;
  std::uint32_t shards_done = 0;
  std::uint32_t shards_paused = 0;
  std::vector<PassedConnection> passed_on;
  std::map<std::pair<std::uint64_t, handoff::LaneNotice>, std::uint32_t> notices;  // amounts

  bool noticed(std::uint64_t backend, handoff::LaneNotice notice) const {
    return notices.contains({backend, notice});
  }
  std::uint32_t amount(std::uint64_t backend, handoff::LaneNotice notice) const {
    const auto found = notices.find({backend, notice});
    return found == notices.end() ? 0 : found->second;
  }
};

template <class Io>
class World {
 public:
  explicit World(WorldOptions options = {}) : options_(std::move(options)) {
    set_table(options_.services);
    for (std::uint32_t i = 0; i < options_.shards; ++i) {
      seats_.push_back(std::make_unique<Seat>());
      mailboxes_.push_back(&seats_.back()->mailbox);
      seats_.back()->address = open_seat(*seats_.back());
    }
    if (options_.starts) start();
  }
  ~World() { stop(); }

  void start() {
    std::vector<std::future<void>> made;
    for (std::uint32_t i = 0; i < options_.shards; ++i) {
      std::promise<void> ready;
      made.push_back(ready.get_future());
      seats_[i]->thread =
          std::thread([this, i, ready = std::move(ready)]() mutable { serve(i, ready); });
    }
    for (std::future<void>& one : made)
      one.get();
    running_ = true;
  }

  // Tells the shards to finish what is under way until `within_ms` from now (nothing: turn all away
  // at once), and joins them.
  void stop(std::int64_t within_ms = 0) {
    if (!std::exchange(running_, false)) return;
    begin_shutdown(within_ms);
    EXPECT_TRUE(wait_until([this] { return heard_.shards_done == options_.shards; }));
    tell_all(ShardMessage::Kind::kStop);
    for (const auto& seat : seats_)
      seat->thread.join();
    hear();
  }
  void begin_shutdown(std::int64_t within_ms) {
    tell_all(ShardMessage::Kind::kShutdown, monotonic_ns() + within_ms * kNanosPerMilli);
  }

  void tell(std::uint32_t shard, ShardMessage message) {
    TCPMUX_CHECK(mailboxes_[shard]->send(std::move(message)), "a mailbox has room");
  }
  void tell_all(ShardMessage::Kind kind, std::int64_t deadline_ns = 0) {
    for (std::uint32_t shard = 0; shard < options_.shards; ++shard) {
      ShardMessage message;
      message.kind = kind;
      message.deadline_ns = deadline_ns;
      tell(shard, std::move(message));
    }
  }
  // What a change begins with, if nothing is to be another.
  ShardSettings settings() const {
    return {.connections_max = options_.connections_max,
            .line_bytes_max = options_.line_bytes_max,
            .handshake_deadline_ns = options_.handshake_deadline_ms * kNanosPerMilli,
            .room_wait_ns = options_.room_wait_ms * kNanosPerMilli,
            .handoff_deadline_ns = options_.handoff_deadline_ms * kNanosPerMilli,
            .help_enabled = options_.help_enabled};
  }
  // Another process holds the listener too. Before start().
  OwnFd copy_of_listener(std::uint32_t shard = 0) const {
    return OwnFd(::fcntl(seats_[shard]->listener.get(), F_DUPFD_CLOEXEC, 0));
  }

  // ---- clients

  OwnFd connect(std::uint32_t shard = 0, int receive_bytes = 0) {
    return connect_to_endpoint(seats_[shard]->address, receive_bytes);
  }
  OwnFd ask(std::string_view line, std::uint32_t shard = 0) {
    OwnFd client = connect(shard);
    send_text(client, line);
    return client;
  }
  // Whatever was asked of the shard before has been looked at when this returns.
  void settle(std::uint32_t shard = 0) {
    const OwnFd client = ask("no-such-service\r\n", shard);
    EXPECT_EQ(read_all(client), "-unknown service\r\n");
  }

  // ---- backends

  Backend add_backend(BackendOptions options = {}) {
    Backend backend;
    backend.id = next_backend_++;
    Registered& registered = backends_[backend.id];
    for (const std::string& name : options.services)
      registered.services.push_back(table_->find(name));
    for (const std::uint32_t shard : options.shards) {
      registered.shards |= std::uint64_t{1} << shard;
      LaneEnds ends = make_lane(backend.id, registered.services, options);
      ends.lane->shard = shard;
      backend.lanes.push_back(std::move(ends.theirs));
      send_sink(shard, std::move(ends.lane));
    }
    send_routes();
    EXPECT_TRUE(wait_until([this] { return routes_are_known(); }));
    return backend;
  }
  // As when its connection to the registry has ended.
  void end_backend(const Backend& backend) {
    backends_.erase(backend.id);
    send_routes();
    command_all(handoff::RouterMessage::Kind::kBackendGone, backend.id);
  }
  void drain_backend(const Backend& backend) {
    backends_.erase(backend.id);
    send_routes();
    command_all(handoff::RouterMessage::Kind::kDrainBackend, backend.id);
  }

  // ---- the table

  void set_table(std::vector<Service> services) {
    Result<ServiceTable> built = ServiceTable::build(std::move(services));
    TCPMUX_CHECK(built.has_value(), "a test's services are good");
    table_ = std::make_shared<const ServiceTable>(*std::move(built));
    for (std::uint32_t shard = 0; shard < mailboxes_.size(); ++shard) {
      ShardMessage message;
      message.kind = ShardMessage::Kind::kTable;
      message.table = table_;
      tell(shard, std::move(message));
    }
  }
  const ServiceTable& table() const { return *table_; }

  // ---- what is heard and counted

  Heard& heard() {
    hear();
    return heard_;
  }
  template <class Condition>
  bool wait_until(Condition condition) {
    const std::int64_t deadline_ns = monotonic_ns() + kPatience_ns;
    for (;;) {
      hear();
      if (condition()) return true;
      if (monotonic_ns() > deadline_ns) return false;
      pollfd waiting{.fd = steward_.wakeup_fd(), .events = POLLIN, .revents = 0};
      ::poll(&waiting, 1, 1);  // counters have no wakeup
    }
  }

  std::uint32_t shards() const { return options_.shards; }
  const Endpoint& address(std::uint32_t shard = 0) const { return seats_[shard]->address; }
  ShardMailbox& mailbox(std::uint32_t shard = 0) { return seats_[shard]->mailbox; }
  const ShardCounters& counters(std::uint32_t shard = 0) const { return seats_[shard]->counters; }
  std::uint64_t count(Counter ShardCounters::* counter) const {
    std::uint64_t sum = 0;
    for (const auto& seat : seats_)
      sum += (seat->counters.*counter).read();
    return sum;
  }
  std::uint64_t refused(Refusal refusal) const {
    std::uint64_t sum = 0;
    for (const auto& seat : seats_)
      sum += seat->counters.refused[static_cast<std::size_t>(refusal)].read();
    return sum;
  }
  bool comes(Counter ShardCounters::* counter, std::uint64_t value) {
    return wait_until([&] { return count(counter) >= value; });
  }
  // Every connection that came has come to exactly one end, once all have ended.
  std::uint64_t begins() const {
    return count(&ShardCounters::accepted) + count(&ShardCounters::inherited);
  }
  std::uint64_t ends() const {
    std::uint64_t sum = count(&ShardCounters::handed_off) - count(&ShardCounters::taken_back);
    for (int i = 0; i < kRefusalCount; ++i)
      sum += refused(static_cast<Refusal>(i));
    for (const auto counter :
         {&ShardCounters::helped, &ShardCounters::timed_out, &ShardCounters::peer_gone,
          &ShardCounters::closed_without_backend, &ShardCounters::passed_on})
      sum += count(counter);
    return sum;
  }

 private:
  struct Seat {
    ShardMailbox mailbox{4096};
    ShardCounters counters;
    std::atomic<std::uint64_t> routes_version = 0;
    OwnFd listener;
    Endpoint address;
    std::thread thread;
  };
  struct Registered {
    std::vector<ServiceId> services;
    std::uint64_t shards = 0;
  };

  Endpoint open_seat(Seat& seat) {
    Result<OwnFd> listener = open_listener({.endpoint = own_endpoint()});
    TCPMUX_CHECK(listener.has_value(), "a test needs a listener");
    seat.listener = *std::move(listener);
    const int bytes = options_.listener_send_bytes;
    if (bytes > 0)
      TCPMUX_CHECK(
          ::setsockopt(seat.listener.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) == 0,
          "a socket takes SO_SNDBUF");
    return *local_endpoint(seat.listener.get());
  }

  // An engine is made, used and ended on the shard's thread.
  void serve(std::uint32_t number, std::promise<void>& ready) {
    Seat& seat = *seats_[number];
    ShardOptions options;
    options.number = number;
    options.listeners.push_back({.socket = std::move(seat.listener)});
    static_cast<ShardSettings&>(options) = settings();
    options.taken_back_max = options_.taken_back_max;
    auto io = Io::create({.operations_max = 4096, .descriptors_max = 65536});
    TCPMUX_CHECK(io.has_value(), "an engine can be made");
    const ShardLinks links{.own = seat.mailbox, .all = mailboxes_, .steward = steward_};
    const handoff::RouterOptions router{
        .shard = number,
        .services_max = 16,
        .lanes_max = options_.lanes_max,
        .stall_ns = options_.stall_ms * kNanosPerMilli,
        .deadline_ns = options_.handoff_deadline_ms * kNanosPerMilli,
        .run_id = run_id(),
        .steward = &steward_,
        .routes_version = &seat.routes_version};
    const auto shard = std::make_unique<Shard<Io, handoff::Router<Io>>>(
        std::move(options), *std::move(io), links, seat.counters, table_, router);
    ready.set_value();
    shard_thread_runs(true);
    shard->run();
    shard_thread_runs(false);
  }

  void send_sink(std::uint32_t shard, std::unique_ptr<SinkMessage> sink) {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kSink;
    message.sink = std::move(sink);
    tell(shard, std::move(message));
  }
  void command_all(handoff::RouterMessage::Kind kind, std::uint64_t backend) {
    for (std::uint32_t shard = 0; shard < options_.shards; ++shard)
      send_sink(shard, std::make_unique<handoff::BackendCommand>(kind, backend));
  }
  bool routes_are_known() const {
    return std::all_of(seats_.begin(), seats_.end(), [this](const auto& seat) {
      return seat->routes_version.load() == routes_version_;
    });
  }
  void send_routes() {
    ++routes_version_;
    for (std::uint32_t shard = 0; shard < options_.shards; ++shard) {
      auto routes = std::make_unique<handoff::RoutesCommand>();
      routes->version = routes_version_;
      for (ServiceId service = 0; service < table_->size(); ++service) {
        handoff::RoutesCommand::Entry entry{.service = service};
        for (const auto& [id, backend] : backends_) {
          if (std::find(backend.services.begin(), backend.services.end(), service) ==
              backend.services.end())
            continue;
          entry.shards |= backend.shards;
          ++entry.backends;
        }
        routes->entries.push_back(entry);
      }
      send_sink(shard, std::move(routes));
    }
  }

  void hear() {
    std::uint64_t signalled = 0;
    [[maybe_unused]] const auto bytes =
        ::read(steward_.wakeup_fd(), &signalled, sizeof signalled);  // EAGAIN: nothing new
    StewardMessage message;
    while (steward_.receive(message)) {
      using Kind = StewardMessage::Kind;
      if (message.kind == Kind::kRefusal) heard_.refusals.push_back(message.refusal);
      if (message.kind == Kind::kShardDone) ++heard_.shards_done;
      if (message.kind == Kind::kShardPaused) ++heard_.shards_paused;
      if (message.kind == Kind::kPassedOn)
        heard_.passed_on.push_back(std::move(message.connection));
      if (message.kind == Kind::kSink)
        heard_.lanes.emplace_back(static_cast<handoff::Lane*>(message.sink.release()));
      if (message.kind == Kind::kSinkNotice)
        heard_.notices[{message.number, static_cast<handoff::LaneNotice>(message.detail)}] +=
            message.amount;
    }
  }

  WorldOptions options_;
  std::shared_ptr<const ServiceTable> table_;
  StewardMailbox steward_{4096};
  std::vector<std::unique_ptr<Seat>> seats_;
  std::vector<ShardMailbox*> mailboxes_;
  std::map<std::uint64_t, Registered> backends_;
  std::uint64_t next_backend_ = 1;
  std::uint64_t routes_version_ = 0;
  Heard heard_;
  bool running_ = false;
};

// At the end of every case: all connections have ended in one way, and no descriptor is left.
template <class Io, class Engine = Io>
class ShardTest : public EngineTest<Io> {
 protected:
  void SetUp() override {
    EngineTest<Io>::SetUp();
    descriptors_before_ = open_descriptors();
  }
  void TearDown() override { end_world(); }
  // A world before it ends here.
  World<Engine>& make_world(WorldOptions options = {}) {
    end_world();
    world_ = std::make_unique<World<Engine>>(std::move(options));
    return *world_;
  }

 private:
  void end_world() {
    if (world_ == nullptr) return;
    world_->stop();
    EXPECT_EQ(world_->begins(), world_->ends());
    world_.reset();
    EXPECT_EQ(open_descriptors(), descriptors_before_);
  }

  std::unique_ptr<World<Engine>> world_;
  std::size_t descriptors_before_ = 0;
};

}  // namespace tcpmux::contract_test
