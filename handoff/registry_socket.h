// The registry's path in the file system: who holds it, and how it is taken over.
#pragma once

#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux::handoff {

// A listening SOCK_SEQPACKET socket at `path`, connectable by everyone (who may register is checked
// by credentials, so that a refusal can say why). The lock file PATH.lock is held as long as we
// live, and has our pid in it: a second daemon is refused, and a socket file that was left by a
// crash is known to be nobody's.
class RegistrySocket {
 public:
  // Makes the folder, one level, where it is missing.
  static Result<RegistrySocket> open(const std::string& path);
  RegistrySocket(RegistrySocket&&) = default;
  RegistrySocket& operator=(RegistrySocket&&) = delete;
  // Removes the socket's file, if it is still ours.
  ~RegistrySocket();

  int fd() const { return socket_.get(); }
  const std::string& path() const { return path_; }

 private:
  RegistrySocket(std::string path, OwnFd lock, OwnFd socket);

  std::string path_;
  OwnFd lock_;
  OwnFd socket_;
  std::uint64_t inode_ = 0;
};

}  // namespace tcpmux::handoff
