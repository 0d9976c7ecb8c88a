// The registry's path in the file system: who holds it, and how it is taken over.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux::handoff {

// A listening SOCK_SEQPACKET socket at `path`, connectable by everyone (who may register is checked
// by credentials, so that a refusal can say why). The lock file PATH.lock is held as long as we
// live, and has our pid in it: a second daemon is refused, and a socket file that was left by a
// crash is known to be nobody's. A socket on which somebody else listens is never removed.
//
// The path may be removed or replaced while we run: watch_fd() tells, restore() mends it.
class RegistrySocket {
 public:
  // Makes the folder, one level, where it is missing.
  static Result<RegistrySocket> open(const std::string& path);
  // The two descriptors of a process whose place we are to take (lock() and fd() there). The path
  // is that process's until claim().
  static RegistrySocket take_over(const std::string& path, OwnFd lock, OwnFd socket) {
    return RegistrySocket(path, std::move(lock), std::move(socket));
  }
  RegistrySocket(RegistrySocket&&) = default;
  RegistrySocket& operator=(RegistrySocket&&) = delete;
  // Removes the socket's file, if it is still ours.
  ~RegistrySocket();

  // The path is ours from now on: our pid stands in the lock.
  Status claim();
  // Another process has claimed it: its file stays when we end.
  void give_up() { is_ours_ = false; }

  // Whoever waits, with SOCK_NONBLOCK; not valid, with errno, where that is nobody or it fails.
  OwnFd accept() const;
  bool somebody_waits() const;

  int fd() const { return socket_.get(); }
  int lock() const { return lock_.get(); }
  const std::string& path() const { return path_; }

  // Whether the path still leads to this socket.
  bool is_at_path() const;
  // Readable when that may have changed, unless it is a folder on the way that got another name; -1
  // where the kernel has none to give (inotify(7)). So one has to look now and then.
  int watch_fd() const { return watch_.get(); }
  void read_watch();
  // Where the path no longer leads here: makes the folder, the lock and the socket again, as far as
  // they are gone. Then fd() is another one. An error where somebody else is there now, or it
  // cannot be done; then fd() is what it was.
  Status restore();

 private:
  RegistrySocket(std::string path, OwnFd lock, OwnFd socket);
  void watch();

  std::string path_;
  OwnFd lock_;
  OwnFd socket_;
  OwnFd watch_;
  std::uint64_t inode_ = 0;
  bool is_ours_ = false;
};

}  // namespace tcpmux::handoff
