#include "tools/demo/workers.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <system_error>

namespace demo {
namespace {

class Workers {
 public:
  explicit Workers(const std::function<int()>& work) : work_(work) {
    ::sigemptyset(&signals_);
    for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD})
      ::sigaddset(&signals_, number);
    ::sigprocmask(SIG_BLOCK, &signals_, &before_);
  }

  void start() {
    const pid_t parent = ::getpid();
    const pid_t process = ::fork();
    if (process < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (process > 0) {
      running_.insert(process);
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it was gone before that was arranged
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
    ::_exit(work_());
  }

  int run() {
    while (!running_.empty()) {
      int number = 0;
      if (::sigwait(&signals_, &number) != 0) continue;
      if (number == SIGCHLD) {
        see_who_ended();
        continue;
      }
      ending_ |= number != SIGUSR1;
      for (const pid_t process : running_)
        ::kill(process, number);
    }
    return status_;
  }

 private:
  void see_who_ended() {
    int how = 0;
    for (pid_t process = 0; (process = ::waitpid(-1, &how, WNOHANG)) > 0;) {
      running_.erase(process);
      if (WIFSIGNALED(how) && !ending_) start();
      if (WIFEXITED(how) && WEXITSTATUS(how) != 0) status_ = WEXITSTATUS(how);
    }
  }

  const std::function<int()>& work_;
  sigset_t signals_{};
  sigset_t before_{};
  std::set<pid_t> running_;
  bool ending_ = false;
  int status_ = 0;
};

}  // namespace

int keep_workers(int count, const std::function<int()>& work) {
  Workers workers(work);
  for (int i = 0; i < count; ++i)
    workers.start();
  return workers.run();
}

}  // namespace demo
