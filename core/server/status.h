// What the daemon says of itself, as one JSON object: the reply to `tcpmux ctl status`. Made on the
// steward's thread; what changes is asked for when it is made.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/address.h"
#include "core/server/shard_set.h"

namespace tcpmux {

// A backend that has registered, as the sink's half on this thread knows it.
struct BackendStatus {
  std::uint64_t id = 0;
  pid_t pid = 0;
  uid_t uid = 0;
  std::string user;
  std::vector<std::string> names;
  std::uint32_t lanes = 0;
  std::uint32_t window = 0;  // of each lane
  std::uint16_t batch = 0;
  bool draining = false;
  std::int64_t connected_ns = 0;  // monotonic
};

struct StatusSources {
  std::string engine;                        // "io_uring"
  std::string engine_remark;                 // the same with what the log says of it
  std::int64_t started_ns = 0;               // monotonic
  std::optional<std::string> configuration;  // the file's path
  std::string registry;
  std::string control;
  std::uint32_t descriptors = 0;  // the limit
  const ShardSet& shards;
  std::function<std::string_view()> state;  // "serving", "draining", "upgrading", "leaving"
  std::function<std::vector<Endpoint>()> listening;
  std::function<std::vector<BackendStatus>()> backends;
};

nlohmann::json status_of(const StatusSources& sources);

}  // namespace tcpmux
