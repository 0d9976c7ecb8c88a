// tcpmuxd: the mux. main() builds everything and passes it in; read it as the map of the program.
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <spdlog/async.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <system_error>

#include "core/base/clock.h"
#include "core/io/epoll_backend.h"
#include "core/io/probe.h"
#include "core/io/uring_backend.h"
#include "core/server/config.h"
#include "core/server/event_loop.h"
#include "core/server/limits.h"
#include "core/server/listen.h"
#include "core/server/log_sink.h"
#include "core/server/memory_reserve.h"
#include "core/server/shard_set.h"
#include "core/server/steward.h"
#include "handoff/registry.h"
#include "handoff/router.h"

#ifdef TCPMUX_MIMALLOC
#include <mimalloc.h>
#endif

namespace tcpmux {
namespace {

// How many names nobody configured may be registered, where the registry is open.
constexpr std::uint32_t kOpenServicesMax = 1024;
constexpr std::uint32_t kLanesPerShardMax = 1024;
constexpr std::size_t kLogLinesMax = 8192;
constexpr std::size_t kStewardMessagesMax = 4096;

// A line is written by spdlog's thread; when its queue is full, the oldest go, and are counted.
class Logging {
 public:
  static Result<std::unique_ptr<Logging>> start(LogLevel level);
  ~Logging() {
    sink_->end();
    spdlog::shutdown();
  }

 private:
  explicit Logging(std::shared_ptr<LogSink> sink) : sink_(std::move(sink)) {}
  std::shared_ptr<LogSink> sink_;
};

Result<std::unique_ptr<Logging>> Logging::start(LogLevel level) {
  try {
    spdlog::init_thread_pool(kLogLinesMax, 1);
  } catch (const std::system_error& error) {  // std::thread's
    return fail("the log's thread cannot be started: " + error.code().message() +
                "; raise the limits of memory and of processes (ulimit -v, ulimit -u, TasksMax=)");
  }
  auto sink = std::make_shared<LogSink>(STDERR_FILENO, *spdlog::thread_pool());
  auto logger = std::make_shared<spdlog::async_logger>(
      "tcpmuxd", sink, spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                  spdlog::level::err, spdlog::level::off};
  logger->set_level(kLevels[static_cast<std::size_t>(level)]);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return std::unique_ptr<Logging>(new Logging(std::move(sink)));
}

struct Engine {
  bool uring = false;
  std::string words;  // for the log: "io_uring", or "epoll (why)"
};

Result<Engine> choose_engine(EngineChoice choice) {
  if (choice == EngineChoice::kEpoll) return Engine{.words = "epoll (as configured)"};
  const std::optional<Error> refusal = why_not_uring();
  if (!refusal) return Engine{.uring = true, .words = "io_uring"};
  if (choice == EngineChoice::kUring)
    return fail("engine io_uring was asked for, but cannot be used here: " + refusal->message +
                "; use --engine auto or epoll");
  return Engine{.words = "epoll (io_uring cannot be used here: " + refusal->message + ")"};
}

Result<std::array<std::uint8_t, 8>> random_run_id() {
  std::array<std::uint8_t, 8> id{};
  // So few bytes are given whole, and only before the kernel has any does it wait (getrandom(2)).
  while (::getrandom(id.data(), id.size(), 0) < 0)
    if (errno != EINTR) return fail_errno("getrandom");
  return id;
}

std::vector<ShardOptions> shard_options(const Config& config, const Limits& limits,
                                        Listening listening) {
  std::vector<ShardOptions> all;
  for (auto& listeners : listening.by_shard) {
    all.push_back({.number = static_cast<std::uint32_t>(all.size()),
                   .listeners = std::move(listeners),
                   .connections_max = limits.connections_per_shard,
                   .busy_max = limits.busy_per_shard,
                   .taken_back_max = limits.taken_back_per_shard,
                   .line_bytes_max = config.handshake.line_bytes_max,
                   .handshake_deadline_ns = config.handshake.deadline_ms * kNanosPerMilli,
                   .room_wait_ns = config.handoff.room_wait_ms * kNanosPerMilli,
                   .handoff_deadline_ns = config.handoff.deadline_ms * kNanosPerMilli,
                   .help_enabled = config.help_enabled});
  }
  return all;
}

template <IoBackend Io>
Status start_shards(ShardSet& shards, const Config& config, const Limits& limits,
                    Listening listening, handoff::Registry& registry, std::uint32_t services_max,
                    StewardMailbox& steward, std::shared_ptr<const ServiceTable> table) {
  using Router = handoff::Router<Io>;
  const auto listeners = static_cast<std::uint32_t>(listening.endpoints.size());
  const IoLimits io_limits{.operations_max = limits.connections_per_shard +
                                             limits.taken_back_per_shard + listeners + 256,
                           .descriptors_max = limits.descriptors};
  const auto run_id = random_run_id();
  if (!run_id) return std::unexpected(run_id.error());
  return shards.start<Io, Router>(
      shard_options(config, limits, std::move(listening)), io_limits, steward, std::move(table),
      [&](std::uint32_t shard) -> handoff::RouterOptions {
        return {.shard = shard,
                .services_max = services_max,
                .lanes_max = kLanesPerShardMax,
                .stall_ns = config.handoff.stall_ms * kNanosPerMilli,
                .deadline_ns = config.handoff.deadline_ms * kNanosPerMilli,
                .run_id = *run_id,
                .steward = &steward,
                .routes_version = registry.routes_version(shard)};
      });
}

handoff::RegistryOptions registry_options(const Config& config, const Limits& limits,
                                          std::uint32_t services_max) {
  return {.path = config.registry.path,
          .open = config.registry.open,
          .users = config.registry.users,
          .groups = config.registry.groups,
          .window_max = config.handoff.window_max,
          .batch_max = limits.sockets_per_message_max,
          .lanes_per_shard_max = kLanesPerShardMax,
          .descriptors_max = limits.backend_descriptors,
          .windows_max = may_pass_any_number_of_sockets()
                             ? std::numeric_limits<std::uint64_t>::max()
                             : limits.descriptors - 1,
          .services_max = services_max};
}

void log_start(const Config& config, const Engine& engine, const Limits& limits,
               std::uint32_t shards, const Listening& listening) {
  for (const std::string& remark : listening.remarks)
    SPDLOG_WARN("{}", remark);
  if (limits.connections_per_shard < config.handshake.connections_per_shard_max)
    SPDLOG_WARN(
        "handshake.connections_per_shard_max is {} instead of {}: the descriptor limit is {} "
        "(ulimit -n, LimitNOFILE=)",
        limits.connections_per_shard, config.handshake.connections_per_shard_max,
        limits.descriptors);
  std::string addresses;
  for (const Endpoint& endpoint : listening.endpoints)
    addresses += (addresses.empty() ? "" : ", ") + to_string(endpoint);
  SPDLOG_INFO("tcpmuxd {} started: engine {}, {} shards, listening on {}{}; registry {}",
              TCPMUX_VERSION, engine.words, shards, addresses,
              listening.inherited ? " (passed to us)" : "", config.registry.path);
#ifdef TCPMUX_MIMALLOC
  SPDLOG_DEBUG("allocator mimalloc {}", mi_version());
#endif
}

// Everything from a good configuration to the end of the process.
Result<int> serve(const Config& config) {
  const std::uint32_t shard_count =
      config.shards != 0 ? config.shards : std::min(64u, usable_cores());
  Result<std::vector<OwnFd>> inherited = inherited_listeners();
  if (!inherited) return std::unexpected(inherited.error());
  const Result<std::uint32_t> descriptors = raise_descriptor_limit();
  if (!descriptors) return std::unexpected(descriptors.error());
  const Result<Limits> limits =
      divide_descriptors(*descriptors, shard_count,
                         static_cast<std::uint32_t>(listeners_per_shard(config, *inherited)),
                         config.handshake.connections_per_shard_max);
  if (!limits) return std::unexpected(limits.error());
  grow_descriptor_table(limits->descriptors_used);

  block_signals();
  Result<std::unique_ptr<Logging>> logging = Logging::start(config.log_level);
  if (!logging) return std::unexpected(logging.error());
  const auto table = std::make_shared<const ServiceTable>(config.services);
  const auto services_max =
      static_cast<std::uint32_t>(table->size()) + (config.registry.open ? kOpenServicesMax : 0);
  auto loop = EventLoop::create();
  if (!loop) return std::unexpected(loop.error());
  StewardMailbox steward_mailbox(kStewardMessagesMax);
  ShardSet shards(shard_count);
  if (!steward_mailbox.is_open() || !shards.is_open())
    return fail_errno("eventfd, for the threads to speak to each other by");
  auto registry = handoff::Registry::open(registry_options(config, *limits, services_max), **loop,
                                          table, shards.mailboxes());
  if (!registry) return std::unexpected(registry.error());
  auto steward = Steward::create(**loop, steward_mailbox, shards, config.handshake.deadline_ms);
  if (!steward) return std::unexpected(steward.error());
  (*steward)->set_hooks(
      {.sink = [&](std::unique_ptr<SinkMessage> m) { (*registry)->receive(std::move(m)); },
       .sink_notice = [&](const StewardMessage& notice) { (*registry)->receive_notice(notice); },
       .shutdown_begins = [&] { (*registry)->begin_shutdown(); }});

  const Result<Engine> engine = choose_engine(config.engine);
  if (!engine) return std::unexpected(engine.error());
  Result<Listening> listening = start_listening(config, *std::move(inherited), shard_count);
  if (!listening) return std::unexpected(listening.error());
  Listening named{.endpoints = listening->endpoints,
                  .inherited = listening->inherited,
                  .remarks = listening->remarks};
  if (!keep_memory_reserve()) return fail("memory is too short; raise its limit (ulimit -v)");
  const auto start = engine->uring ? start_shards<UringBackend> : start_shards<EpollBackend>;
  if (Status started = start(shards, config, *limits, *std::move(listening), **registry,
                             services_max, steward_mailbox, table);
      !started)
    return std::unexpected(started.error());
  use_memory_reserve();
  log_start(config, *engine, *limits, shard_count, named);

  (*loop)->run();
  if ((*steward)->forced()) {
    // The shards are at work, so nothing of them can be torn down.
    (*steward)->log_counters();
    logging->reset();
    ::_exit(1);
  }
  (*registry)->say_goodbye();
  shards.send_all([] {
    ShardMessage message;
    message.kind = ShardMessage::Kind::kStop;
    return message;
  });
  shards.join();
  (*steward)->log_counters();
  SPDLOG_INFO("stopped");
  return 0;
}

int run(int argc, char** argv) {
  std::set_new_handler(out_of_memory);
  const ParsedCommandLine parsed = parse_command_line(argc, argv);
  if (parsed.exit_code) return *parsed.exit_code;
  const Result<Config> config = load_config(parsed.options);
  if (!config) {
    fmt::print(stderr, "{}\n", config.error().message);
    return 1;
  }
  if (parsed.options.check_config) {
    fmt::print("{}: ok, {} services\n", parsed.options.config_path.value_or("the defaults"),
               config->services.size());
    return 0;
  }
  const Result<int> ended = serve(*config);
  if (ended) return *ended;
  fmt::print(stderr, "tcpmuxd: {}\n", ended.error().message);
  return 1;
}

}  // namespace
}  // namespace tcpmux

int main(int argc, char** argv) {
  return tcpmux::run(argc, argv);
}
