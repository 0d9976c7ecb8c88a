#include "core/server/control_path.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/base/check.h"
#include "core/base/folder.h"

namespace tcpmux {
namespace {

constexpr int kBacklog = 128;
constexpr const char* kAdvice = " (control.path, --control; \"\" for none)";

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  TCPMUX_CHECK(path.size() < sizeof address.sun_path, "the path's length was checked");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

OwnFd unix_stream() {
  return OwnFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

std::string holder_of(int connected) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(connected, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0) return "";
  return " (pid " + std::to_string(peer.pid) + ")";
}

// A socket that a crash left refuses connections; whatever else happens, somebody is there.
Status check_unserved(const std::string& path) {
  const OwnFd probe = unix_stream();
  if (!probe.valid()) return fail_errno("socket(AF_UNIX, SOCK_STREAM)");
  const sockaddr_un address = address_of(path);
  const int result =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (result < 0 && (errno == ECONNREFUSED || errno == ENOENT)) return {};
  const std::string who = result == 0 ? holder_of(probe.get()) : "";
  return fail("another process" + who + " listens at the control socket's path " + path +
              "; stop it, or give this daemon a path of its own" + kAdvice);
}

// What may lie at `path`: nothing, or a socket that is nobody's.
Status check_place(const std::string& path, IfServed if_served) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) < 0) return {};
  if (!S_ISSOCK(found.st_mode))
    return fail("the control socket's path " + path + " exists and is not a socket" + kAdvice);
  if (if_served == IfServed::kTakeOver) return {};
  return check_unserved(path);
}

Status bind_and_listen(int fd, const std::string& path) {
  // bind(2) takes the file's mode from the socket's own (less the umask), so that it is never open
  // to others.
  if (::fchmod(fd, 0600) < 0) return fail_errno("fchmod of the control socket");
  const sockaddr_un address = address_of(path);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return fail_errno("the control socket cannot be made" + std::string(kAdvice) + ": bind " +
                      path);
  if (::listen(fd, kBacklog) < 0) return fail_errno("listen " + path);
  return {};
}

}  // namespace

std::size_t control_path_bytes_max() {
  return sizeof(sockaddr_un::sun_path) - 2;  // a NUL, and the ~
}

std::string control_path_beside(std::string_view registry_path) {
  constexpr std::string_view kSuffix = ".sock";
  if (registry_path.ends_with(kSuffix)) registry_path.remove_suffix(kSuffix.size());
  return std::string(registry_path) + ".control.sock";
}

Result<ControlPath> ControlPath::open(const std::string& path, IfServed if_served) {
  if (path.size() > control_path_bytes_max())
    return fail("the control socket's path is longer than " +
                std::to_string(control_path_bytes_max()) + " bytes" + kAdvice + ": " + path);
  const Status made =
      make_folder_of(path, "the control socket's folder cannot be made" + std::string(kAdvice));
  if (!made) return std::unexpected(made.error());
  if (Status good = check_place(path, if_served); !good) return std::unexpected(good.error());
  OwnFd fd = unix_stream();
  if (!fd.valid()) return fail_errno("socket(AF_UNIX, SOCK_STREAM)");
  const std::string fresh = path + "~";
  struct stat left{};  // by a crash between bind and rename
  if (::lstat(fresh.c_str(), &left) == 0 && S_ISSOCK(left.st_mode)) ::unlink(fresh.c_str());
  if (Status bound = bind_and_listen(fd.get(), fresh); !bound)
    return std::unexpected(bound.error());
  struct stat file{};
  if (::lstat(fresh.c_str(), &file) < 0 || ::rename(fresh.c_str(), path.c_str()) < 0) {
    const Error error =
        system_error("the control socket cannot be put in its place: " + path, errno);
    ::unlink(fresh.c_str());
    return std::unexpected(error);
  }
  return ControlPath(path, std::move(fd), file);
}

ControlPath::ControlPath(std::string path, OwnFd socket, const struct stat& file)
    : path_(std::move(path)),
      socket_(std::move(socket)),
      device_(file.st_dev),
      inode_(file.st_ino) {}

ControlPath::~ControlPath() {
  if (!socket_.valid()) return;
  // While our socket is open its inode's number is no other file's.
  struct stat found{};
  if (::lstat(path_.c_str(), &found) < 0) return;
  if (found.st_dev != device_ || found.st_ino != inode_) return;
  // Nothing is left to be done about a failure, and the next daemon replaces what stays.
  [[maybe_unused]] const int ignored = ::unlink(path_.c_str());
}

}  // namespace tcpmux
