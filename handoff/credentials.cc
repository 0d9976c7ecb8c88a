#include "handoff/credentials.h"

#include <pwd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace tcpmux::handoff {

bool Credentials::in_group(gid_t group) const {
  return gid == group || std::find(groups.begin(), groups.end(), group) != groups.end();
}

Result<Credentials> credentials_of(int socket) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
    return fail_errno("getsockopt(SO_PEERCRED)");
  Credentials credentials{.pid = peer.pid, .uid = peer.uid, .gid = peer.gid};
  // ERANGE says how many there are; a process may have 65,536 (NGROUPS_MAX).
  socklen_t group_bytes = 0;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, nullptr, &group_bytes) < 0 &&
      errno == ERANGE) {
    credentials.groups.resize(group_bytes / sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, credentials.groups.data(), &group_bytes) <
        0)
      return fail_errno("getsockopt(SO_PEERGROUPS)");
  }
  return credentials;
}

std::string user_name(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer;
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr)
    return std::to_string(uid);
  return found->pw_name;
}

}  // namespace tcpmux::handoff
