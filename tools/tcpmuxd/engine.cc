#include "tools/tcpmuxd/engine.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <optional>

#include "core/base/clock.h"
#include "core/io/epoll_backend.h"
#include "core/io/probe.h"
#include "core/io/uring_backend.h"
#include "handoff/router.h"

namespace tcpmux {
namespace {

Result<std::array<std::uint8_t, 8>> random_run_id() {
  std::array<std::uint8_t, 8> id{};
  // So few bytes are given whole, and only before the kernel has any does it wait (getrandom(2)).
  while (::getrandom(id.data(), id.size(), 0) < 0)
    if (errno != EINTR) return fail_errno("getrandom");
  return id;
}

template <IoBackend Io>
Status prepare(ShardSet& shards, std::vector<ShardOptions> options, const Config& config,
               const Limits& limits, handoff::Registry& registry, StewardMailbox& steward,
               std::shared_ptr<const ServiceTable> table) {
  using Router = handoff::Router<Io>;
  const IoLimits io_limits{.operations_max = limits.connections_per_shard +
                                             limits.taken_back_per_shard + kAcceptsMax + 256,
                           .descriptors_max = limits.descriptors};
  const auto run_id = random_run_id();
  if (!run_id) return std::unexpected(run_id.error());
  return shards.prepare<Io, Router>(
      std::move(options), io_limits, steward, std::move(table),
      [&](std::uint32_t shard) -> handoff::RouterOptions {
        return {.shard = shard,
                .services_max = registry.services_max(),
                .lanes_max = kLanesPerShardMax,
                .stall_ns = config.handoff.stall_ms * kNanosPerMilli,
                .deadline_ns = config.handoff.deadline_ms * kNanosPerMilli,
                .run_id = *run_id,
                .steward = &steward,
                .routes_version = registry.routes_version(shard)};
      });
}

}  // namespace

Result<Engine> choose_engine(EngineChoice choice) {
  if (choice == EngineChoice::kEpoll) return Engine{.words = "epoll (as configured)"};
  const std::optional<Error> refusal = why_not_uring();
  if (!refusal) return Engine{.uring = true, .words = "io_uring"};
  if (choice == EngineChoice::kUring)
    return fail("engine io_uring was asked for, but cannot be used here: " + refusal->message +
                "; use --engine auto or epoll");
  return Engine{.words = "epoll (io_uring cannot be used here: " + refusal->message + ")"};
}

Status prepare_shards(const Engine& engine, ShardSet& shards, std::vector<ShardOptions> options,
                      const Config& config, const Limits& limits, handoff::Registry& registry,
                      StewardMailbox& steward, std::shared_ptr<const ServiceTable> table) {
  const auto chosen = engine.uring ? prepare<UringBackend> : prepare<EpollBackend>;
  return chosen(shards, std::move(options), config, limits, registry, steward, std::move(table));
}

}  // namespace tcpmux
