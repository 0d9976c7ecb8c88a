#include "handoff/guardian.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>

namespace tcpmux::handoff {
namespace {

constexpr int kPipe = 3;               // the guardian's, where it has put it
constexpr int kKilledByASignal = 128;  // and its number: as a shell says it

// Every other descriptor is closed: what the child closes must not live on here.
[[noreturn]] void guard(pid_t child, int pipe) {
  if (pipe != kPipe && ::dup2(pipe, kPipe) < 0) ::_exit(1);
  ::syscall(SYS_close_range, kPipe + 1, UINT_MAX, 0);  // Linux 5.9; without it, they stay open
  char word = 0;
  ssize_t bytes = 0;
  do {
    bytes = ::read(kPipe, &word, 1);
  } while (bytes < 0 && errno == EINTR);
  if (bytes == 1) ::_exit(0);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFSIGNALED(status) ? kKilledByASignal + WTERMSIG(status) : WEXITSTATUS(status));
}

}  // namespace

Result<Guardian> Guardian::fork_off() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno("pipe2");
  OwnFd theirs(ends[0]);
  OwnFd ours(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child > 0) {
    ours.reset();
    guard(child, theirs.get());
  }
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return fail_errno("prctl(PR_SET_PDEATHSIG)");
  // It may have ended before we asked.
  if (::getppid() != parent) return fail("the process that watches over us has ended");
  return Guardian(std::move(ours));
}

void Guardian::let_go() {
  ::prctl(PR_SET_PDEATHSIG, 0);
  const char word = 1;
  // Where it has gone already, there is nobody to be told.
  [[maybe_unused]] const ssize_t bytes = ::write(pipe_.get(), &word, 1);
  pipe_.reset();
}

}  // namespace tcpmux::handoff
