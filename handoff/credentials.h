// Who is at the other end of a Unix socket, as the kernel knows it (SO_PEERCRED, SO_PEERGROUPS,
// socket(7)), at the time when it connected.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/base/result.h"

namespace tcpmux::handoff {

struct Credentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups{};  // supplementary

  bool in_group(gid_t group) const;
};

Result<Credentials> credentials_of(int socket);
// "www-data", or "1234" for an unknown one.
std::string user_name(uid_t uid);

}  // namespace tcpmux::handoff
