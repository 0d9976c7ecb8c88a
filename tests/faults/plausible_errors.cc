#include "tests/faults/plausible_errors.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <vector>

namespace tcpmux::faults {
namespace {

// Never failed, because...
constexpr std::array kNeverFailed = {
    // ...they do not return, or return where they were called from elsewhere.
    SYS_exit,
    SYS_exit_group,
    SYS_rt_sigreturn,
    SYS_execve,
    SYS_restart_syscall,
    // ...an error of them has happened all the same: Linux releases a descriptor whatever close
    // returns. One that is refused here would stay open, and the leak would be of our making.
    SYS_close,
    SYS_close_range,
    // ...they give memory back; only a wrong address makes them fail.
    SYS_munmap,
    // ...only the leak sanitizer makes them, when the program ends.
    SYS_ptrace,
    SYS_wait4,
    // ...the C library aborts upon errors of them that the kernel never gives.
    SYS_futex,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_rseq,
    // ...they fail through wrong arguments alone.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_sigaltstack,
    SYS_arch_prctl,
    SYS_sched_yield,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_uname,
    SYS_sysinfo,
    SYS_getcpu,
    // ...they cannot fail.
    SYS_getpid,
    SYS_gettid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_umask,
    // ...it returns the old break instead of an error, which the C library takes for one.
    SYS_brk,
    // ...it is how an abort ends.
    SYS_tgkill,
    SYS_kill,
};

struct Entry {
  int number;
  const char* name;
  std::vector<int> errors;
};

const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {
      // Files and folders.
      {SYS_open, "open", {EMFILE, EACCES, ENFILE}},
      {SYS_openat, "openat", {EMFILE, EACCES, ENFILE}},
      {SYS_read, "read", {EIO, EINTR}},
      {SYS_pread64, "pread64", {EIO}},
      {SYS_write, "write", {ENOSPC, EIO, EINTR}},
      {SYS_writev, "writev", {ENOSPC, EIO}},
      {SYS_pwrite64, "pwrite64", {ENOSPC, EIO}},
      {SYS_lseek, "lseek", {ESPIPE}},
      {SYS_fstat, "fstat", {EIO, ENOMEM}},
      {SYS_newfstatat, "newfstatat", {ENOMEM, EACCES}},
      {SYS_stat, "stat", {ENOMEM, EACCES}},
      {SYS_lstat, "lstat", {ENOMEM, EACCES}},
      {SYS_statx, "statx", {ENOMEM}},
      {SYS_access, "access", {ENOENT, ENOMEM}},
      {SYS_faccessat, "faccessat", {ENOENT, ENOMEM}},
      {SYS_readlink, "readlink", {ENOENT, EACCES}},
      {SYS_readlinkat, "readlinkat", {ENOENT, EACCES}},
      {SYS_getdents64, "getdents64", {EIO}},
      {SYS_getcwd, "getcwd", {ENOENT}},
      {SYS_mkdir, "mkdir", {EACCES, ENOSPC}},
      {SYS_mkdirat, "mkdirat", {EACCES, ENOSPC}},
      {SYS_unlink, "unlink", {EACCES, EROFS}},
      {SYS_unlinkat, "unlinkat", {EACCES, EROFS}},
      {SYS_rename, "rename", {EACCES, ENOSPC}},
      {SYS_chmod, "chmod", {EPERM, EROFS}},
      {SYS_fchmod, "fchmod", {EPERM, EROFS}},
      {SYS_fchmodat, "fchmodat", {EPERM, EROFS}},
      {SYS_ftruncate, "ftruncate", {EIO, EINTR}},
      {SYS_flock, "flock", {ENOLCK, EINTR}},
      {SYS_inotify_init1, "inotify_init1", {EMFILE, ENOMEM}},
      {SYS_inotify_add_watch, "inotify_add_watch", {ENOSPC, ENOMEM}},
      {SYS_dup, "dup", {EMFILE}},
      {SYS_dup2, "dup2", {EBUSY, EINTR}},
      {SYS_dup3, "dup3", {EBUSY, EINTR}},
      {SYS_pipe2, "pipe2", {EMFILE, ENFILE}},
      // Memory, threads, the process.
      {SYS_mmap, "mmap", {ENOMEM}},
      {SYS_mremap, "mremap", {ENOMEM}},
      {SYS_mprotect, "mprotect", {ENOMEM}},
      {SYS_madvise, "madvise", {ENOMEM, EAGAIN}},
      {SYS_mbind, "mbind", {ENOMEM, EPERM}},
      {SYS_get_mempolicy, "get_mempolicy", {EPERM}},
      {SYS_clone, "clone", {EAGAIN, ENOMEM}},
      {SYS_clone3, "clone3", {EAGAIN, ENOMEM}},
      {SYS_prctl, "prctl", {EPERM}},
      {SYS_prlimit64, "prlimit64", {EPERM}},
      {SYS_capget, "capget", {EPERM}},
      {SYS_sched_getaffinity, "sched_getaffinity", {EPERM}},
      {SYS_sched_setaffinity, "sched_setaffinity", {EPERM, EINVAL}},
      {SYS_getrandom, "getrandom", {ENOSYS, EINTR}},
      // Waiting.
      {SYS_epoll_create1, "epoll_create1", {EMFILE, ENOMEM}},
      {SYS_epoll_wait, "epoll_wait", {EINTR}},
      {SYS_epoll_pwait, "epoll_pwait", {EINTR}},
      {SYS_poll, "poll", {EINTR, ENOMEM}},
      {SYS_ppoll, "ppoll", {EINTR, ENOMEM}},
      {SYS_eventfd2, "eventfd2", {EMFILE, ENOMEM}},
      {SYS_signalfd4, "signalfd4", {EMFILE, ENOMEM}},
      {SYS_timerfd_create, "timerfd_create", {EMFILE, ENOMEM}},
      // Sockets.
      {SYS_socket, "socket", {EMFILE, ENOBUFS, EACCES}},
      {SYS_socketpair, "socketpair", {EMFILE, ENOMEM}},
      {SYS_bind, "bind", {EADDRINUSE, EACCES}},
      {SYS_listen, "listen", {EADDRINUSE}},
      {SYS_connect, "connect", {ECONNREFUSED, EAGAIN}},
      {SYS_accept4, "accept4", {EMFILE, ENOMEM, ECONNABORTED, EPERM}},
      {SYS_setsockopt, "setsockopt", {ENOMEM, EPERM}},
      {SYS_getsockopt, "getsockopt", {ENOBUFS}},
      {SYS_getsockname, "getsockname", {ENOBUFS}},
      {SYS_getpeername, "getpeername", {ENOTCONN, ENOBUFS}},
      {SYS_shutdown, "shutdown", {ENOTCONN}},
      {SYS_recvfrom, "recvfrom", {ECONNRESET, ENOMEM}},
      {SYS_recvmsg, "recvmsg", {ENOMEM}},
      {SYS_sendto, "sendto", {EPIPE, ENOBUFS, ECONNRESET}},
      {SYS_sendmsg, "sendmsg", {ENOBUFS, ETOOMANYREFS, EPERM, EPIPE}},
      // Rings. Nothing else of what io_uring_enter(2) lists is without a bug of ours.
      {SYS_io_uring_setup, "io_uring_setup", {ENOMEM, EPERM}},
      {SYS_io_uring_register, "io_uring_register", {ENOMEM, EINVAL}},
      {SYS_io_uring_enter, "io_uring_enter", {EAGAIN, EBUSY, EINTR}},
  };
  return entries;
}

// A counter, signals or a timer in memory: there is no device behind it that could fail.
Verdict judge_by_descriptor(int number, std::string_view descriptor) {
  static constexpr std::array kInterrupted = {EINTR};
  const bool counts = descriptor == "anon_inode:[eventfd]" ||
                      descriptor == "anon_inode:[signalfd]" || descriptor == "anon_inode:inotify";
  if (number == SYS_read && counts) return {Kind::kFails, "read", kInterrupted};
  if (number == SYS_write && counts) return {Kind::kFails, "write", kInterrupted};
  return {};
}

// Calls whose second argument says what they do.
Verdict judge_by_operation(int number, std::uint64_t operation) {
  static constexpr std::array kWatchErrors = {ENOMEM, ENOSPC};
  static constexpr std::array kDuplicateErrors = {EMFILE};
  switch (number) {
    case SYS_epoll_ctl:
      // To change or end what is watched takes no memory.
      if (operation == EPOLL_CTL_ADD) return {Kind::kFails, "epoll_ctl", kWatchErrors};
      return {Kind::kNever, "epoll_ctl", {}};
    case SYS_fcntl:
      // The flags of an open descriptor can be read and written.
      if (operation == F_DUPFD || operation == F_DUPFD_CLOEXEC)
        return {Kind::kFails, "fcntl", kDuplicateErrors};
      return {Kind::kNever, "fcntl", {}};
    case SYS_ioctl:
      // What waits in a socket, and whether a descriptor is a terminal: no memory, no waiting.
      return {Kind::kNever, "ioctl", {}};
    default:
      return {};
  }
}

}  // namespace

Verdict judge(int number, std::uint64_t operation, std::string_view descriptor) {
  Verdict verdict = judge_by_operation(number, operation);
  if (verdict.kind == Kind::kUnclassified) verdict = judge_by_descriptor(number, descriptor);
  if (verdict.kind != Kind::kUnclassified) return verdict;
  const auto found = std::find_if(table().begin(), table().end(),
                                  [&](const Entry& entry) { return entry.number == number; });
  if (found == table().end()) return {};
  return {Kind::kFails, found->name, found->errors};
}

std::span<const int> never_failed() {
  return kNeverFailed;
}

}  // namespace tcpmux::faults
