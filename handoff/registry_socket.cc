#include "handoff/registry_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/base/check.h"
#include "core/base/folder.h"

namespace tcpmux::handoff {
namespace {

constexpr int kBacklog = 128;

Status make_folder(const std::string& path) {
  return make_folder_of(path, "the registry's folder cannot be made");
}

std::string holder_of(int lock) {
  std::array<char, 32> text{};
  const ssize_t bytes = ::pread(lock, text.data(), text.size() - 1, 0);
  std::string pid(text.data(), bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  while (!pid.empty() && pid.back() == '\n')
    pid.pop_back();
  return pid.empty() ? "another process" : "pid " + pid;
}

Status write_pid(int lock) {
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock, 0) < 0 ||
      ::pwrite(lock, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
    return fail_errno("the registry's lock cannot be written");
  return {};
}

Result<OwnFd> take_lock(const std::string& path) {
  const std::string lock_path = path + ".lock";
  OwnFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!lock.valid()) return fail_errno("the registry's lock cannot be opened: " + lock_path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) return fail_errno("flock " + lock_path);
    return fail("another tcpmuxd (" + holder_of(lock.get()) + ") serves the registry " + path +
                "; stop it, or give this one a path of its own (registry.path, --registry)");
  }
  if (Status written = write_pid(lock.get()); !written) return std::unexpected(written.error());
  return lock;
}

// We hold the lock, so a socket that lies here was left by a daemon that is no more. But a path
// that names something else, or a socket on which somebody listens, is a mistake in the
// configuration.
Status remove_old_socket(const std::string& path, const sockaddr_un& address) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) < 0) return {};
  if (!S_ISSOCK(found.st_mode)) return fail(path + " exists and is not a socket");
  const OwnFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return fail_errno("socket(AF_UNIX, SOCK_SEQPACKET)");
  const int connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (connected == 0 || errno != ECONNREFUSED)
    return fail("another program listens at " + path +
                "; stop it, or give the registry a path of its own (registry.path, --registry)");
  if (::unlink(path.c_str()) < 0) return fail_errno("the old socket cannot be removed: " + path);
  return {};
}

Status bind_and_listen(int fd, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail("the registry's path is longer than a socket's can be (107 bytes): " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (Status removed = remove_old_socket(path, address); !removed) return removed;
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return fail_errno("the registry cannot be made: bind " + path);
  if (::chmod(path.c_str(), 0666) < 0) return fail_errno("chmod " + path);
  if (::listen(fd, kBacklog) < 0) return fail_errno("listen " + path);
  return {};
}

Result<OwnFd> listen_at(const std::string& path) {
  OwnFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno("socket(AF_UNIX, SOCK_SEQPACKET)");
  if (Status bound = bind_and_listen(fd.get(), path); !bound) return std::unexpected(bound.error());
  return fd;
}

std::uint64_t inode_of(const std::string& path) {
  struct stat found{};
  return ::lstat(path.c_str(), &found) == 0 ? found.st_ino : 0;
}

bool is_held_at(const OwnFd& lock, const std::string& path) {
  struct stat held{};
  return ::fstat(lock.get(), &held) == 0 && held.st_ino == inode_of(path + ".lock");
}

}  // namespace

Result<RegistrySocket> RegistrySocket::open(const std::string& path) {
  if (Status made = make_folder(path); !made) return std::unexpected(made.error());
  Result<OwnFd> lock = take_lock(path);
  if (!lock) return std::unexpected(lock.error());
  Result<OwnFd> fd = listen_at(path);
  if (!fd) return std::unexpected(fd.error());
  RegistrySocket opened(path, *std::move(lock), *std::move(fd));
  opened.is_ours_ = true;
  return opened;
}

// flock(2) belongs to the open file, which we share with the process before us.
Status RegistrySocket::claim() {
  is_ours_ = true;
  return write_pid(lock_.get());
}

RegistrySocket::RegistrySocket(std::string path, OwnFd lock, OwnFd socket)
    : path_(std::move(path)),
      lock_(std::move(lock)),
      socket_(std::move(socket)),
      inode_(inode_of(path_)) {
  watch();
}

OwnFd RegistrySocket::accept() const {
  return OwnFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

bool RegistrySocket::somebody_waits() const {
  pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, 0) > 0;
}

// What was taken over may have had no file then.
bool RegistrySocket::is_at_path() const {
  return inode_ != 0 && inode_of(path_) == inode_;
}

// The file itself is watched, not its folder, in which much else may come and go. That its last
// name is gone changes its count of links, which is an attribute.
void RegistrySocket::watch() {
  watch_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (watch_.valid() && ::inotify_add_watch(watch_.get(), path_.c_str(),
                                            IN_ATTRIB | IN_MOVE_SELF | IN_DONT_FOLLOW) < 0)
    watch_.reset();
}

void RegistrySocket::read_watch() {
  alignas(inotify_event) std::array<char, 4096> events;
  while (::read(watch_.get(), events.data(), events.size()) > 0) {
  }
}

Status RegistrySocket::restore() {
  if (Status made = make_folder(path_); !made) return made;
  if (!is_held_at(lock_, path_)) {
    Result<OwnFd> lock = take_lock(path_);
    if (!lock) return std::unexpected(lock.error());
    lock_ = *std::move(lock);
  }
  Result<OwnFd> fd = listen_at(path_);
  if (!fd) return std::unexpected(fd.error());
  socket_ = *std::move(fd);
  inode_ = inode_of(path_);
  watch();
  return {};
}

// The lock's file stays: removing it would let two daemons lock two files of one name.
RegistrySocket::~RegistrySocket() {
  if (!socket_.valid() || !is_ours_ || !is_at_path()) return;
  // Nothing is left to be done about a failure, and the next daemon removes what stays.
  [[maybe_unused]] const int ignored = ::unlink(path_.c_str());
}

}  // namespace tcpmux::handoff
