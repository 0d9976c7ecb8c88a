#include "core/server/service_manager.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

#include <cstring>

#include "core/base/clock.h"

namespace tcpmux {
namespace {

void tell(const std::string& state) {
  // The variable stays: a process that takes our place inherits it.
  const int result = ::sd_notify(/*unset_environment=*/0, state.c_str());
  if (result < 0)
    SPDLOG_WARN("the service manager ($NOTIFY_SOCKET) cannot be told: {}", std::strerror(-result));
}

}  // namespace

void tell_ready(const std::string& status) {
  tell("READY=1\nSTATUS=" + status);
}

void tell_reloading() {
  // Newer managers match the time with that of our READY=1 (sd_notify(3), RELOADING=1).
  tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration",
                   monotonic_ns() / 1000));
}

void tell_stopping(const std::string& status) {
  tell("STOPPING=1\nSTATUS=" + status);
}

void tell_main_pid(pid_t pid) {
  tell(fmt::format("MAINPID={}\nSTATUS=replaced by process {}", pid, pid));
}

}  // namespace tcpmux
