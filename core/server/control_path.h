// The control socket's path in the file system: made for its owner alone, and taken over without a
// moment at which nobody listens there.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace tcpmux {

// What to do where another process listens at the path.
enum class IfServed : std::uint8_t {
  kRefuse,    // say whose it is: a daemon that starts
  kTakeOver,  // a daemon that takes the place of the one that listens
};

// While a socket is made it lies at PATH~, so a path is one byte shorter than a socket's can be.
std::size_t control_path_bytes_max();

// Where the control socket is when nobody says where: at the registry's path, with ".control.sock"
// in the place of ".sock".
std::string control_path_beside(std::string_view registry_path);

// A listening SOCK_STREAM socket at `path`, mode 0600. What a crash left there is replaced; what is
// no socket is left alone and refused.
class ControlPath {
 public:
  // Makes the folder, one level, where it is missing.
  static Result<ControlPath> open(const std::string& path, IfServed if_served);
  ControlPath(ControlPath&&) = default;
  ControlPath& operator=(ControlPath&&) = delete;
  // Removes the socket's file, if it is still ours.
  ~ControlPath();

  int fd() const { return socket_.get(); }
  const std::string& path() const { return path_; }

 private:
  ControlPath(std::string path, OwnFd socket, const struct stat& file);

  std::string path_;
  OwnFd socket_;
  dev_t device_;
  ino_t inode_;
};

}  // namespace tcpmux
