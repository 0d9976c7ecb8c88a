// Which engine the shards run on; the one place where a choice at run time becomes a type.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/server/config.h"
#include "core/server/limits.h"
#include "core/server/messages.h"
#include "core/server/shard_set.h"
#include "handoff/registry.h"

namespace tcpmux {

struct Engine {
  bool uring = false;
  std::string words{};  // for the log: "io_uring", or "epoll (why)"
};

Result<Engine> choose_engine(EngineChoice choice);

inline constexpr std::uint32_t kLanesPerShardMax = 1024;

// Makes the shards' threads on that engine; they wait for ShardSet::serve().
Status prepare_shards(const Engine& engine, ShardSet& shards, std::vector<ShardOptions> options,
                      const Config& config, const Limits& limits, handoff::Registry& registry,
                      StewardMailbox& steward, std::shared_ptr<const ServiceTable> table);

}  // namespace tcpmux
