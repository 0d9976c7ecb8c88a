// A whole connection through the real shard and the real router, on an engine that answers at once:
// all that the mux itself does between accept and close. Clients come in waves of so many.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "bench/micro/instant_engine.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/server/shard.h"
#include "handoff/router.h"

namespace bench {
namespace {

using Router = tcpmux::handoff::Router<InstantEngine>;
using Shard = tcpmux::Shard<InstantEngine, Router>;

constexpr std::uint32_t kClients = 4096;
constexpr std::int64_t kLong_ns = 600 * tcpmux::kNanosPerSecond;

std::shared_ptr<const tcpmux::ServiceTable> make_table() {
  auto table = tcpmux::ServiceTable::build({{.name = "daytime"}, {.name = "echo"}});
  TCPMUX_CHECK(table.has_value(), "the services are good");
  return std::make_shared<const tcpmux::ServiceTable>(*std::move(table));
}

// A lane that serves the whole table, with room for all: a queue is looked at once in a millisecond
// at most, and here more come in one. Its descriptors are never used.
tcpmux::ShardMessage lane_message(const tcpmux::ServiceTable& table) {
  tcpmux::handoff::Lane::Setup setup;
  setup.window = kClients;
  setup.batch = 64;
  for (tcpmux::ServiceId id = 0; id < table.size(); ++id)
    setup.services.push_back(id);
  tcpmux::ShardMessage message;
  message.kind = tcpmux::ShardMessage::Kind::kSink;
  message.sink = std::make_unique<tcpmux::handoff::Lane>(std::move(setup));
  return message;
}

// One shard from its begin to its end; gives how long it ran.
class Run {
 public:
  Run(const Clients& clients, std::shared_ptr<const tcpmux::ServiceTable> table) {
    auto engine = std::make_unique<InstantEngine>(clients, mailbox_);
    engine_ = engine.get();
    TCPMUX_CHECK(mailbox_.send(lane_message(*table)), "a new mailbox has room");
    tcpmux::ShardOptions options;
    options.connections_max = clients.at_once;
    options.handshake_deadline_ns = options.room_wait_ns = options.handoff_deadline_ns = kLong_ns;
    options.listeners.emplace_back();
    const tcpmux::handoff::RouterOptions router{.services_max = 16,
                                                .lanes_max = 1,
                                                .stall_ns = kLong_ns,
                                                .deadline_ns = kLong_ns,
                                                .steward = &steward_,
                                                .routes_version = &routes_version_};
    shard_ = std::make_unique<Shard>(
        std::move(options), std::move(engine),
        tcpmux::ShardLinks{.own = mailbox_, .all = all_, .steward = steward_}, counters_,
        std::move(table), router);
  }

  std::int64_t run_ns() {
    const std::int64_t began_ns = tcpmux::monotonic_ns();
    shard_->run();
    return tcpmux::monotonic_ns() - began_ns;
  }

  std::uint64_t handed_off() const { return counters_.handed_off.read(); }
  std::uint32_t closed() const { return engine_->closed(); }

 private:
  tcpmux::ShardMailbox mailbox_{8};
  tcpmux::ShardMailbox* all_[1] = {&mailbox_};
  tcpmux::StewardMailbox steward_{8};
  tcpmux::ShardCounters counters_;
  std::atomic<std::uint64_t> routes_version_ = 0;
  InstantEngine* engine_ = nullptr;  // the shard's
  std::unique_ptr<Shard> shard_;
};

// Only what runs is timed, not what makes it.
void serve(benchmark::State& state, std::string_view line, bool served) {
  const auto table = make_table();
  const Clients clients{
      .count = kClients, .at_once = static_cast<std::uint32_t>(state.range(0)), .line = line};
  while (state.KeepRunningBatch(kClients)) {
    Run run(clients, table);
    state.SetIterationTime(static_cast<double>(run.run_ns()) / tcpmux::kNanosPerSecond);
    TCPMUX_CHECK(run.closed() == kClients, "every connection comes to an end");
    TCPMUX_CHECK(run.handed_off() == (served ? kClients : 0), "and to the right one");
  }
}
BENCHMARK_CAPTURE(serve, handed_off, "echo\r\n", true)
    ->Name("shard/handed_off")
    ->Arg(1)
    ->Arg(8)
    ->Arg(64)
    ->UseManualTime();
BENCHMARK_CAPTURE(serve, refused, "coffee\r\n", false)
    ->Name("shard/refused")
    ->Arg(1)
    ->Arg(8)
    ->Arg(64)
    ->UseManualTime();

}  // namespace
}  // namespace bench
