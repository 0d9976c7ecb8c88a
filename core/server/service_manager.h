// What a service manager (systemd's Type=notify, sd_notify(3)) is told of us. Nothing happens where
// $NOTIFY_SOCKET does not name one; that it cannot be told is logged, and is no reason to stop.
#pragma once

#include <sys/types.h>

#include <string>

namespace tcpmux {

// We serve. `status` is a line for `systemctl status`. Also ends what tell_reloading() began.
void tell_ready(const std::string& status);
// A new configuration is being read; tell_ready() follows, whether it was good or not.
void tell_reloading();
void tell_stopping(const std::string& status);
// From now on the service is the process `pid`, which has taken our place; our end is not the
// service's.
void tell_main_pid(pid_t pid);

}  // namespace tcpmux
