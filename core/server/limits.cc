#include "core/server/limits.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>

#include "core/base/fd.h"
#include "core/server/control_socket.h"

namespace tcpmux {
namespace {

// Standard streams, the steward's loop, signals and mailbox, the registry, its lock and what tells
// of its path, and some for a moment (name service, the registry made again); the control socket,
// who is connected to it, and one more for a moment; the successor's channel, and a copy for it.
constexpr std::uint32_t kProcessDescriptors = 12 + 1 + kControlConnectionsMax + 1 + 2;
// Engine, mailbox, the descriptor in reserve, and one for a moment.
constexpr std::uint32_t kShardDescriptors = 4;
// A mux that cannot hold so many at once is no use.
constexpr std::uint32_t kConnectionsPerShardMin = 4;
constexpr std::uint32_t kSocketsPerMessageMax = 64;

// What does not depend on how many shards there are.
Limits shares_of(std::uint32_t descriptors) {
  Limits limits{.descriptors = descriptors};
  limits.backend_descriptors = std::clamp<std::uint32_t>(descriptors / 8, 12, 16'384);
  limits.busy_per_shard = std::clamp<std::uint32_t>(descriptors / 256, 2, 64);
  limits.taken_back_per_shard = std::clamp<std::uint32_t>(descriptors / 64, 4, 1024);
  limits.sockets_per_message_max =
      static_cast<std::uint16_t>(std::min(limits.taken_back_per_shard, kSocketsPerMessageMax));
  return limits;
}

// All but the connections.
std::uint32_t spoken_for(const Limits& limits, std::uint32_t shards, std::uint32_t listeners) {
  return kProcessDescriptors + limits.backend_descriptors +
         shards *
             (kShardDescriptors + listeners + limits.busy_per_shard + limits.taken_back_per_shard);
}

}  // namespace

Result<std::uint32_t> raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return fail_errno("getrlimit(RLIMIT_NOFILE)");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) < 0) return fail_errno("setrlimit(RLIMIT_NOFILE)");
  return static_cast<std::uint32_t>(
      std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<std::int32_t>::max()));
}

Result<Limits> divide_descriptors(std::uint32_t descriptors, std::uint32_t shards,
                                  std::uint32_t listeners, std::uint32_t connections_wanted) {
  Limits limits = shares_of(descriptors);
  const std::uint32_t fixed = spoken_for(limits, shards, listeners);
  const auto needed_with = [&](std::uint32_t of) {
    return spoken_for(shares_of(of), shards, listeners) + shards * kConnectionsPerShardMin;
  };
  std::uint32_t enough = descriptors;
  while (enough < needed_with(enough))  // the shares grow with what is to be divided
    enough = needed_with(enough);
  if (descriptors < enough)
    return fail("a descriptor limit of " + std::to_string(descriptors) + " is too small for " +
                std::to_string(shards) + " shards with " + std::to_string(listeners) +
                " listeners each: at least " + std::to_string(enough) +
                " are needed (ulimit -n, LimitNOFILE=), or fewer shards");
  limits.connections_per_shard = std::min(connections_wanted, (descriptors - fixed) / shards);
  limits.descriptors_used = fixed + shards * limits.connections_per_shard;
  return limits;
}

void grow_descriptor_table(std::uint32_t count) {
  const OwnFd any(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!any.valid() || count == 0) return;
  const OwnFd last(::fcntl(any.get(), F_DUPFD_CLOEXEC, static_cast<int>(count - 1)));
}

bool may_pass_any_number_of_sockets() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) < 0) return false;
  const auto has = [&](unsigned capability) {
    return (data[capability / 32].effective & (1u << (capability % 32))) != 0;
  };
  return has(CAP_SYS_RESOURCE) || has(CAP_SYS_ADMIN);
}

}  // namespace tcpmux
